"""Explains gradients that differ: a constant ratio, a part of the model without gradient, a layout, rows, NaN.

Gradients are compared before any clipping, in torch's names and layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.ranking import rank
from stepalign.coordinator.diagnosis.wording import count, names, number

Pair = tuple[np.ndarray, np.ndarray]

_NOISE_SHARE = 1e-6
_TENSORS_LOOKED_AT = 6
_SAME_RATIO = 1e-3


@dataclass(frozen=True)
class _Gradient:
    name: str
    torch: Array
    paddle: Array
    noise: float
    before: float


def explain_gradients(
    pairs: Mapping[str, tuple[np.ndarray | None, np.ndarray | None]],
    order: Sequence[str],
    loss_ratio: float | None = None,
) -> list[Cause]:
    """Return the causes that explain why gradients differ, most likely first; none where they agree.

    ``pairs`` maps torch's parameter names to (torch, paddle) arrays of one shape in torch's layout; None stands for no
    gradient. ``order`` lists the names in forward order. ``loss_ratio`` is paddle's loss over torch's, where known: it
    tells a scaled loss from a scaled gradient.
    """
    ordered = [name for name in order if name in pairs] + [name for name in pairs if name not in order]
    nonfinite = list(_nonfinite(pairs, ordered))
    if nonfinite:
        return rank(nonfinite)
    scale = max((_greatest(array) for pair in pairs.values() for array in pair), default=0.0)
    causes = list(_silent(pairs, ordered, scale))
    gradients = [_gradient(name, *pairs[name], scale) for name in ordered]
    alive = [gradient for gradient in gradients if gradient is not None]
    differing = [gradient for gradient in alive if gradient.before > gradient.noise]
    if differing:
        ratios = list(_ratios(alive, differing, loss_ratio))
        causes.extend(ratios)
        if not ratios:
            for gradient in reversed(differing[-_TENSORS_LOOKED_AT:]):
                causes.extend(_one_tensor(gradient))
    return rank(causes)


def _greatest(array: np.ndarray | None) -> float:
    return float(np.max(np.abs(array.astype(np.float64)), initial=0.0)) if array is not None else 0.0


def _gradient(name: str, torch: np.ndarray | None, paddle: np.ndarray | None, scale: float) -> _Gradient | None:
    """Return the pair in float64, or None where a side is silent, both are noise, or the shapes differ."""
    if torch is None or paddle is None or torch.shape != paddle.shape or not torch.size:
        return None
    if min(_greatest(torch), _greatest(paddle)) <= _NOISE_SHARE * scale:
        return None
    ours, theirs = fit.as_array(torch), fit.as_array(paddle)
    return _Gradient(name, ours, theirs, 3.0 * fit.rounding(torch, paddle), fit.left_over(ours, theirs))


def _nonfinite(
    pairs: Mapping[str, tuple[np.ndarray | None, np.ndarray | None]],
    ordered: Sequence[str],
) -> Iterator[Cause]:
    for position, side in ((1, "paddle"), (0, "torch")):
        bad = []
        for name in reversed(ordered):
            array, other = pairs[name][position], pairs[name][1 - position]
            if array is not None and not np.all(np.isfinite(array)) and (other is None or np.all(np.isfinite(other))):
                bad.append(name)
        if bad:
            yield Cause(
                Category.NONFINITE,
                "gradient",
                0.95,
                f"{side}'s gradient of {count(len(bad), 'parameter')} is not finite where the other side's is; "
                f"the first in backward order is {bad[0]}",
                f"look in the paddle model at what follows {bad[0]}: a division, a log, a sqrt at zero, or an overflow",
            )


def _silent(
    pairs: Mapping[str, tuple[np.ndarray | None, np.ndarray | None]],
    ordered: Sequence[str],
    scale: float,
) -> Iterator[Cause]:
    for position, side, other_side in ((1, "paddle", "torch"), (0, "torch", "paddle")):
        silent = [
            name
            for name in ordered
            if (pairs[name][position] is None or _greatest(pairs[name][position]) == 0.0)
            and _greatest(pairs[name][1 - position]) > _NOISE_SHARE * scale
        ]
        if not silent:
            continue
        loud = [name for name in ordered if name not in silent and _greatest(pairs[name][position]) > 0.0]
        cut = bool(loud) and len(silent) > 1 and ordered.index(silent[-1]) < ordered.index(loud[0])
        none = all(pairs[name][position] is None for name in silent)
        what = "no gradient" if none else "a zero gradient"
        evidence = (
            f"{side} has {what} for {count(len(silent), 'parameter')} where {other_side} has one: {names(silent)}"
            + (f"; everything before {loud[0]} in forward order" if cut else "")
        )
        yield _silent_cause(side, silent, cut, none, evidence)


def _silent_cause(side: str, silent: list[str], cut: bool, none: bool, evidence: str) -> Cause:
    detached = 0.93 if cut else 0.6 if not none else 0.4
    if side == "paddle" and (cut or not none):
        fix = f"remove .detach(), stop_gradient=True or paddle.no_grad() after {silent[-1]} in the paddle model"
        return Cause(Category.BACKWARD, "detached", detached, evidence, fix)
    if side == "torch" and (cut or not none):
        fix = f"stop the gradient after {silent[-1]} in the paddle model as torch does: .detach() or paddle.no_grad()"
        return Cause(Category.BACKWARD, "not_detached", detached, evidence, fix)
    if side == "paddle":
        fix = f"set stop_gradient=False on {names(silent)}, and use the parameter in the paddle model's forward"
        return Cause(Category.FROZEN_PARAMETER, "frozen", 0.9, evidence, fix)
    fix = f"set stop_gradient=True on {names(silent)}"
    return Cause(Category.FROZEN_PARAMETER, "not_frozen", 0.9, evidence, fix)


def _ratios(alive: list[_Gradient], differing: list[_Gradient], loss_ratio: float | None) -> Iterator[Cause]:
    fitted = []
    for gradient in differing:
        value, after = fit.factor(gradient.torch, gradient.paddle)
        if not fit.explains(gradient.before, after, gradient.noise):
            break
        fitted.append((gradient, value, after))
    if len(fitted) < len(differing) or all(gradient.torch.size == 1 for gradient in differing):
        return
    values = np.array([value for _, value, _ in fitted])
    middle = float(np.median(values))
    if np.all(np.abs(values - middle) <= _SAME_RATIO * abs(middle)):
        left = max(after for _, _, after in fitted)
        before = max(gradient.before for gradient in differing)
        confident = fit.certainty(before, left, max(gradient.noise for gradient in differing), 0.95)
        everywhere = len(differing) == len(alive)
        yield from _one_ratio(middle, differing, everywhere, confident, loss_ratio)
        return
    norms = [float(np.linalg.norm(gradient.paddle)) for gradient, _, _ in fitted]
    if len(norms) > 1 and max(norms) - min(norms) <= _SAME_RATIO * max(norms) and np.all(values < 1.0):
        yield Cause(
            Category.GRADIENT_CLIPPING,
            "per_tensor",
            0.9,
            f"{count(len(norms), 'gradient')} of paddle have the same norm {number(norms[0])}: each was clipped on "
            "its own",
            "clip by the norm over all parameters: ClipGradByGlobalNorm, or paddle.nn.utils.clip_grad_norm_ once",
        )
    elif sum(gradient.torch.size > 1 for gradient, _, _ in fitted) > 1:
        shown = ", ".join(f"{gradient.name} x {number(value)}" for gradient, value, _ in fitted[:3])
        yield Cause(
            Category.BACKWARD,
            "scaled_by_parameter",
            0.5,
            f"each of {count(len(fitted), 'gradient')} is torch's times its own constant: {shown}",
            "look for a scale inside paddle's layers, gradient hooks, or clipping parameter by parameter",
        )


def _one_ratio(
    ratio: float, differing: list[_Gradient], everywhere: bool, confident: float, loss_ratio: float | None
) -> Iterator[Cause]:
    listed = names(gradient.name for gradient in differing)
    evidence = f"paddle = {number(ratio)} x torch for {'all ' if everywhere else ''}{count(len(differing), 'gradient')}"
    if not everywhere:
        evidence += f" ({listed}); the others agree"
    if abs(ratio + 1.0) <= _SAME_RATIO:
        yield Cause(
            Category.BACKWARD,
            "sign_flipped",
            confident,
            evidence,
            "check the sign of the loss, or of the gradient hook, in paddle",
        )
        return
    whole = fit.near_whole(abs(ratio)) or fit.near_whole(1.0 / abs(ratio))
    if whole is not None:
        evidence += f"; {whole} may be a batch size, a sequence length or a number of accumulated batches"
    if not everywhere:
        yield Cause(
            Category.BACKWARD,
            "gradient_scale",
            0.85 * confident,
            evidence,
            f"look for a factor of {number(ratio)} in paddle's backward of {listed}, or in what follows it",
        )
        return
    loss_agrees = loss_ratio is not None and abs(loss_ratio - 1.0) <= _SAME_RATIO
    loss_scaled = loss_ratio is not None and abs(loss_ratio - ratio) <= _SAME_RATIO * abs(ratio)
    if not loss_agrees:
        most = confident if loss_scaled else 0.6 * confident
        yield Cause(Category.LOSS, "reduction", most, evidence, _REDUCTION_FIX)
    if whole is not None and not loss_scaled:
        yield Cause(
            Category.GRADIENT_ACCUMULATION,
            "missing_division",
            confident if loss_agrees else 0.6 * confident,
            evidence,
            f"divide paddle's loss by the {whole} accumulated batches as torch does, and call optimizer.clear_grad() "
            "once a step",
        )
    if not loss_scaled:
        yield Cause(
            Category.BACKWARD,
            "gradient_scale",
            (0.8 if loss_agrees and whole is None else 0.5) * confident,
            evidence,
            f"find the factor {number(ratio)} between paddle's loss and its backward (a scaler, a hook, loss * k)",
        )


_REDUCTION_FIX = (
    "use torch's reduction in the paddle loss: reduction='mean' divides by the number of elements, 'sum' does not"
)


def _one_tensor(gradient: _Gradient) -> Iterator[Cause]:
    """Explain one gradient by its layout, its rows or its channels."""
    ours, theirs, name, noise = gradient.torch, gradient.paddle, gradient.name, gradient.noise
    after = fit.transposed(ours, theirs)
    if fit.explains(gradient.before, after, noise):
        fix = f"transpose the weight of {name}: paddle.nn.Linear keeps [in, out], torch.nn.Linear [out, in]"
        evidence = f"paddle's gradient of {name} is torch's transposed (left over {after:.1g})"
        yield Cause(
            Category.INITIAL_WEIGHTS, "transposed", fit.certainty(gradient.before, after, noise, 0.95), evidence, fix
        )
        return
    for axis in range(ours.ndim):
        order = fit.permutation(ours, theirs, axis)
        if order is not None:
            evidence = f"paddle's gradient of {name} is torch's in another order along axis {axis}"
            fix = f"check the order of what feeds {name} (concatenation, gates, heads, flattening) in the paddle model"
            yield Cause(Category.BACKWARD, "permuted", 0.9, evidence, fix)
            return
    rows = fit.differing_rows(ours, theirs, noise)
    if ours.ndim == 2 and 0 < rows.size < ours.shape[0] and rows.size <= max(1, ours.shape[0] // 4):
        silent = not np.any(theirs[rows]) or not np.any(ours[rows])
        side = "paddle" if not np.any(theirs[rows]) else "torch"
        evidence = f"only row(s) {fit.rows_shown(rows)} of {ours.shape[0]} of the gradient of {name} differ"
        evidence += f"; {side}'s are zero" if silent else ""
        fix = (
            "give paddle.nn.Embedding torch's padding_idx, or the loss torch's ignore_index: such rows get no gradient"
        )
        yield Cause(Category.BACKWARD, "some_rows", 0.85 if silent else 0.6, evidence, fix)
        return
    for axis in range(ours.ndim if ours.ndim > 1 else 0):
        factors, after = fit.per_slice_factor(ours, theirs, axis)
        if ours[0].size > 1 and fit.explains(gradient.before, after, noise):
            evidence = (
                f"paddle's gradient of {name} is torch's times a factor for each index of axis {axis} "
                f"({number(float(np.min(factors)))} to {number(float(np.max(factors)))})"
            )
            fix = f"look for a scale for each channel after {name}: a norm's epsilon or statistics, class weights"
            yield Cause(Category.BACKWARD, "channel_scale", 0.7, evidence, fix)
            return
