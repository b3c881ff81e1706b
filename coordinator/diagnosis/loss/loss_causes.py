"""Explains losses that differ from the first step: a ratio, an offset, saturation, ignored labels, smoothing, NaN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.ranking import rank
from stepalign.coordinator.diagnosis.wording import number

_AGREE = 1e-5
_FITTED = 1e-4
_SATURATED = 64.0


def explain_loss(
    torch_losses: Sequence[float],
    paddle_losses: Sequence[float],
    batch_sizes: Sequence[int],
    label_counts: Sequence[tuple[int, int]] | None = None,
    uniform_losses: Sequence[float] | None = None,
) -> list[Cause]:
    """Return the causes that explain why losses differ, most likely first; none where the first losses agree.

    One entry a step; losses are scalars. ``batch_sizes``: samples in each batch. ``label_counts``: (labels that are not
    ignored, all labels). ``uniform_losses``: torch's mean of -log p over all classes, by which smoothing is fitted.
    Trajectories part once the losses differ, so a law that holds at the first step alone is kept with less confidence.
    """
    steps = min(len(torch_losses), len(paddle_losses))
    ours, theirs = np.array(torch_losses[:steps], np.float64), np.array(paddle_losses[:steps], np.float64)
    if not steps:
        return []
    nonfinite = list(_nonfinite(ours, theirs))
    finite = np.isfinite(ours) & np.isfinite(theirs)
    if nonfinite or not finite[0]:
        return rank(nonfinite)
    if abs(ours[0] - theirs[0]) <= _AGREE * abs(ours[0]):
        return rank(_saturation(ours, theirs))
    ours, theirs = ours[finite], theirs[finite]
    causes = [*_saturation(ours, theirs), *_ratio(ours, theirs, batch_sizes, label_counts)]
    if uniform_losses is not None:
        causes.extend(_smoothing(ours, theirs, np.array(uniform_losses[:steps], np.float64)[finite]))
    causes.extend(_offset(ours, theirs))
    return rank(causes)


def _nonfinite(ours: Array, theirs: Array) -> Iterator[Cause]:
    for values, others, side in ((theirs, ours, "paddle"), (ours, theirs, "torch")):
        bad = np.flatnonzero(~np.isfinite(values) & np.isfinite(others))
        if bad.size:
            step = int(bad[0])
            evidence = (
                f"{side}'s loss is {values[step]} from step {step}, the other side's {number(float(others[step]))}"
            )
            fix = (
                "look at step's batch for all labels ignored, a log or a division by zero, an overflow, or a rate "
                "too high"
            )
            yield Cause(Category.NONFINITE, "loss", 0.95, evidence, fix)


def _saturation(ours: Array, theirs: Array) -> Iterator[Cause]:
    """paddle's CPU kernels clip shifted logits at -64, so a label's cross-entropy never exceeds 64."""
    over = np.flatnonzero((ours > _SATURATED) & (theirs <= _SATURATED * (1.0 + 1e-6)))
    if over.size:
        step = int(over[0])
        if abs(theirs[step] - _SATURATED) > 1e-4:
            return
        yield Cause(
            Category.LOSS,
            "softmax_clipping",
            0.97,
            f"at step {step} torch's loss is {number(float(ours[step]))} and paddle's {number(float(theirs[step]))}: "
            "paddle's softmax on the CPU clips logits 64 below the greatest",
            "keep logits within 64 of each other (normalise or scale them); no argument of paddle turns the "
            "clipping off",
        )


def _ratio(
    ours: Array, theirs: Array, batch_sizes: Sequence[int], label_counts: Sequence[tuple[int, int]] | None
) -> Iterator[Cause]:
    if abs(ours[0]) < 1e-12 or abs(theirs[0]) < 1e-12:
        return
    ratios = theirs / np.where(ours == 0.0, np.nan, ours)
    ratio = float(ratios[0])
    constant = ours.size > 2 and bool(np.all(np.abs(ratios - ratio) <= _FITTED * abs(ratio)))
    over = f"at {ours.size} steps" if constant else "at the first step"
    evidence = f"paddle = {number(ratio)} x torch {over}"
    if abs(ratio + 1.0) <= _FITTED:
        yield Cause(Category.LOSS, "sign_flipped", 0.95, evidence, "negate paddle's loss")
        return
    if label_counts:
        valid, total = label_counts[0]
        share = valid / total if total else 0.0
        for expected, what in ((share, "n_valid / N"), (1.0 / share if share else 0.0, "N / n_valid")):
            if expected and share != 1.0 and abs(ratio - expected) <= _FITTED * expected:
                yield Cause(
                    Category.LOSS,
                    "ignored_labels",
                    0.97,
                    f"{evidence} = {what} with {valid} of {total} labels not ignored",
                    "paddle's cross_entropy with a negative ignore_index (-100, -1) divides by all labels: use an "
                    "ignore_index >= 0, or "
                    "reduction='sum' and divide by the number of labels that are not ignored",
                )
                return
    whole, inverse = fit.near_whole(ratio, _FITTED), fit.near_whole(1.0 / ratio, _FITTED)
    size = batch_sizes[0] if batch_sizes else 0
    if whole is None and inverse is None:
        if constant:
            fix = f"find the factor {number(ratio)} in paddle's loss: a weight, a temperature, an accumulated mean"
            yield Cause(Category.LOSS, "scaled", 0.7, evidence, fix)
        return
    amount = whole if whole is not None else inverse
    assert amount is not None
    multiple = size > 0 and amount % size == 0
    meaning = ""
    if multiple:
        meaning = f"; the batch has {size} samples" + (
            "" if amount == size else f", {amount // size} values in each"
        )
    confidence = 0.95 if multiple else 0.75 if constant else 0.6
    way = "sums where torch averages" if whole is not None else "averages where torch sums"
    reduction = "mean" if whole is not None else "sum"
    fix = f"reduction='{reduction}' in the paddle loss, as in torch"
    yield Cause(Category.LOSS, "reduction", confidence, f"{evidence}: paddle {way}{meaning}", fix)


def _smoothing(ours: Array, theirs: Array, uniform: Array) -> Iterator[Cause]:
    """Fit (1 - s) * loss + s * uniform, the formula of label smoothing, from either side."""
    span = uniform - ours
    if abs(span[0]) < 1e-9:
        return
    amount = float((theirs[0] - ours[0]) / span[0])
    smoothed, plain = "paddle", "torch"
    if amount < 0.0:
        # torch = (1 - s) * paddle + s * uniform, solved for s.
        amount, smoothed, plain = amount / (amount - 1.0), "torch", "paddle"
    if 0.0 < amount < 1.0 and abs(amount - round(amount, 3)) <= 1e-4:
        yield Cause(
            Category.LOSS,
            "label_smoothing",
            0.9,
            f"{smoothed} = (1 - s) x {plain} + s x (mean of -log p over the classes) with s = {number(amount)}",
            "the same label_smoothing in paddle.nn.CrossEntropyLoss as in torch",
        )


def _offset(ours: Array, theirs: Array) -> Iterator[Cause]:
    difference = theirs - ours
    middle = float(difference[0])
    if ours.size < 3 or np.ptp(difference) > 0.05 * abs(middle) or np.ptp(ours) <= 2.0 * np.ptp(difference):
        return
    exact = np.ptp(difference) <= 1e-4 * abs(middle)
    more, less = ("paddle", "torch") if middle > 0.0 else ("torch", "paddle")
    yield Cause(
        Category.LOSS,
        "offset",
        0.85 if exact else 0.6,
        f"{more}'s loss is {number(abs(middle))} above {less}'s at each of {ours.size} steps "
        f"(to {number(float(np.ptp(difference)))}), while the loss itself moves by {number(float(np.ptp(ours)))}",
        "look for a term that one side adds to the loss: a regularisation of the weights, an auxiliary loss, a "
        "constant",
    )
