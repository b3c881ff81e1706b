"""Explains why two sequences of learning rates differ: each law is fitted and kept where it predicts the numbers.

Works on ten steps and on thousands; what a short sequence cannot tell apart is listed side by side, less confident.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.ranking import rank
from stepalign.coordinator.diagnosis.rates import rate_shapes as shapes
from stepalign.coordinator.diagnosis.rates.rate_decay import explain_decay, explain_pieces, explain_restarts
from stepalign.coordinator.diagnosis.rates.rate_shapes import Rates, fits
from stepalign.coordinator.diagnosis.rates.rate_warmup import explain_warmup
from stepalign.coordinator.diagnosis.wording import number


def explain_rates(
    torch: Sequence[Sequence[float]], paddle: Sequence[Sequence[float]], group_pairs: Sequence[tuple[int, int]]
) -> list[Cause]:
    """Return the causes that predict paddle's rates from torch's, most likely first; none where the rates agree.

    ``torch[step][group]`` and ``paddle[step][group]`` are the rates that each step's update used;
    ``group_pairs`` holds (torch group, paddle group). Steps that one side lacks are left out.
    """
    steps = min(len(torch), len(paddle))
    pairs = [
        (_column(torch, ours, steps), _column(paddle, theirs, steps), theirs)
        for ours, theirs in group_pairs
        if steps and ours < len(torch[0]) and theirs < len(paddle[0])
    ]
    causes: list[Cause] = []
    differing = [(ours, theirs, group) for ours, theirs, group in pairs if not _equal(ours, theirs)]
    groups = list(_groups(pairs, differing))
    for ours, theirs, group in differing:
        where = f"group {group}: " if len(pairs) > 1 else ""
        causes.extend(replace(cause, evidence=where + cause.evidence) for cause in _explain(ours, theirs))
    if groups:
        causes = [cause for cause in causes if cause.code != "rate_scale"]
    return rank([*groups, *causes])


def _column(rates: Sequence[Sequence[float]], group: int, steps: int) -> Rates:
    return np.array([row[group] for row in rates[:steps]], dtype=np.float64)


def _equal(ours: Rates, theirs: Rates) -> bool:
    scale = float(np.max(np.abs(ours), initial=0.0))
    return bool(np.isfinite(scale) and np.all(np.abs(ours - theirs) <= 1e-9 * np.abs(ours) + 1e-13 * scale))


def _groups(pairs: list[tuple[Rates, Rates, int]], differing: list[tuple[Rates, Rates, int]]) -> Iterator[Cause]:
    """Explain groups whose rates are a constant multiple of torch's while other groups agree."""
    if not differing or len(differing) == len(pairs):
        return
    for ours, theirs, group in differing:
        factor = shapes.constant_factor(ours, theirs)
        if factor is None:
            continue
        others = [(t, p) for t, p, other in pairs if other != group]
        if any(_equal(theirs, p) for _, p in others):
            evidence = (
                f"paddle's group {group} has the rate of another group; torch's is {number(1.0 / factor)} times that"
            )
            fix = f"'learning_rate': {number(1.0 / factor)} in that group: paddle ignores a group's 'lr'"
            yield Cause(Category.SCHEDULE, "group_rate_ignored", 0.95, evidence, fix)
        elif any(fits(np.array([factor]), t[:1]) for t, _ in others):
            evidence = (
                f"paddle's group {group} has {number(factor)} times torch's rate, and {number(factor)} is the rate "
                "of another group"
            )
            fix = (
                "'learning_rate' in a paddle group multiplies the optimizer's rate: give "
                f"{number(float(ours[0]) / factor)} "
                f"instead of {number(float(ours[0]))}"
            )
            yield Cause(Category.SCHEDULE, "group_multiplier", 0.97, evidence, fix)
        else:
            evidence = (
                f"paddle's group {group} has {number(factor)} times torch's rate at each of {ours.size} steps; other "
                "groups agree"
            )
            fix = f"divide 'learning_rate' of that paddle group by {number(factor)}: it multiplies the optimizer's rate"
            yield Cause(Category.SCHEDULE, "group_multiplier", 0.9, evidence, fix)


def _explain(ours: Rates, theirs: Rates) -> Iterator[Cause]:
    if not np.all(np.isfinite(theirs)) or not np.all(np.isfinite(ours)):
        side = "paddle" if not np.all(np.isfinite(theirs)) else "torch"
        step = int(np.flatnonzero(~np.isfinite(theirs if side == "paddle" else ours))[0])
        yield Cause(
            Category.NONFINITE,
            "rate",
            0.97,
            f"{side}'s rate is not finite from step {step}",
            "check what the schedule divides by",
        )
        return
    factor = shapes.constant_factor(ours, theirs)
    if factor is not None:
        confidence = 0.95 if ours.size > 1 else 0.6
        if shapes.geometric(ours) is not None and shapes.find_shift(ours, theirs) is not None:
            confidence = 0.5
        evidence = f"paddle = {number(factor)} x torch at each of {ours.size} steps"
        yield Cause(
            Category.SCHEDULE, "rate_scale", confidence, evidence, f"divide paddle's learning_rate by {number(factor)}"
        )
    if not shapes.varies(ours) and not shapes.varies(theirs):
        return
    if shapes.varies(ours) != shapes.varies(theirs):
        yield _one_constant(ours, theirs)
        if not shapes.varies(theirs) and shapes.ramp(ours) is not None:
            yield from explain_warmup(ours, theirs)
        return
    timing = list(_timing(ours, theirs))
    yield from timing
    share = 0.5 if any(cause.confidence > 0.9 and cause.code != "shifted" for cause in timing) else 1.0
    for cause in explain_warmup(ours, theirs):
        yield replace(cause, confidence=share * cause.confidence)
    yield from explain_pieces(ours, theirs)
    yield from explain_decay(ours, theirs)
    yield from explain_restarts(ours, theirs)


def _one_constant(ours: Rates, theirs: Rates) -> Cause:
    pieces = shapes.steps_down(ours if shapes.varies(ours) else theirs)
    confidence = 0.7 if pieces is not None and len(pieces) == 1 else 0.93
    if shapes.varies(ours):
        starts = "torch's first rate" if fits(ours[:1], theirs[:1]) else "another rate than torch's first"
        return Cause(
            Category.SCHEDULE,
            "not_scheduled",
            confidence,
            f"paddle's rate stays {number(float(theirs[0]))} ({starts}) for {ours.size} steps; torch's goes from "
            f"{number(float(ours[0]))} to {number(float(ours[-1]))}",
            "give the scheduler to the paddle optimizer as learning_rate=scheduler and pass it in "
            "Training(scheduler=...)",
        )
    return Cause(
        Category.SCHEDULE,
        "only_paddle_scheduled",
        confidence,
        f"torch's rate stays {number(float(ours[0]))}; paddle's goes from {number(float(theirs[0]))} to "
        f"{number(float(theirs[-1]))}",
        f"learning_rate={number(float(ours[0]))} in the paddle optimizer, without a scheduler",
    )


def _timing(ours: Rates, theirs: Rates) -> Iterator[Cause]:
    shift = shapes.find_shift(ours, theirs)
    if shift is not None:
        late = "late" if shift > 0 else "early"
        confidence = {1: 0.97, 2: 0.92}.get(abs(shift), 0.75 if shapes.steps_down(ours) is None else 0.55)
        overlap = ours.size - abs(shift)
        yield Cause(
            Category.SCHEDULE,
            "shifted",
            confidence,
            f"paddle is {abs(shift)} step(s) {late}: its rates are torch's of step i{-shift:+d} at {overlap} of "
            f"{overlap} steps",
            "call scheduler.step() once after each optimizer.step(), and check last_epoch and the first index of "
            "the schedule",
        )
    stride = shapes.find_stride(theirs, ours)
    if stride is not None:
        values = len(np.unique(theirs))
        yield Cause(
            Category.SCHEDULE,
            "stepped_too_rarely",
            0.96 if values > 2 else 0.7,
            f"paddle's rate of step i is torch's of step i // {stride}, at {ours.size} of {ours.size} steps",
            f"step paddle's scheduler after each optimizer step, not every {stride} (once an epoch, say)",
        )
    stride = shapes.find_stride(ours, theirs)
    skips = shapes.find_skips(theirs, ours)
    found = stride if stride is not None else skips
    if found is not None:
        yield Cause(
            Category.SCHEDULE,
            "stepped_too_often",
            0.93,
            f"paddle's rate of step i is torch's of step {found} x i",
            f"step paddle's scheduler once where it is stepped {found} times (torch steps it every {found}, or "
            "paddle does it twice)",
        )
