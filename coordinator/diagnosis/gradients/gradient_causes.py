"""Explains gradients that differ: a constant ratio, a part of the model without gradient, a layout, rows, NaN.

Gradients are compared before any clipping, in torch's names and layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.declared.declared_parameters import DeclaredParameter
from stepalign.coordinator.diagnosis.gradients.gradient_rows import explain_rows
from stepalign.coordinator.diagnosis.gradients.silent_gradients import NOISE_SHARE, explain_silent, greatest
from stepalign.coordinator.diagnosis.ranking import rank
from stepalign.coordinator.diagnosis.wording import count, names, number

Pair = tuple[np.ndarray, np.ndarray]

_TENSORS_LOOKED_AT = 6
_SAME_RATIO = 1e-3
_FEWEST_NUMBERS = 4
_EXACT = 3.0
"""Times the noise: what a constant may leave of one gradient while others show that something else differs too."""


@dataclass(frozen=True)
class _Gradient:
    name: str
    torch: Array
    paddle: Array
    noise: float
    before: float


_Fitted = tuple[_Gradient, float, float]
"""A gradient, the constant that makes torch's paddle's, and what that leaves over."""


def explain_gradients(
    pairs: Mapping[str, tuple[np.ndarray | None, np.ndarray | None]],
    order: Sequence[str],
    loss_ratio: float | None = None,
    declared: Mapping[str, DeclaredParameter] = MappingProxyType({}),
) -> list[Cause]:
    """Return the causes that explain why gradients differ, most likely first; none where they agree.

    ``pairs`` maps torch's parameter names to (torch, paddle) arrays of one shape in torch's layout; None stands for no
    gradient. ``order`` lists the names in forward order. ``loss_ratio`` is paddle's loss over torch's, where known: it
    tells a scaled loss from a scaled gradient. ``declared`` holds what is known of the parameters before the first step.
    """
    ordered = [name for name in order if name in pairs] + [name for name in pairs if name not in order]
    nonfinite = list(_nonfinite(pairs, ordered))
    if nonfinite:
        return rank(nonfinite)
    scale = max((greatest(array) for pair in pairs.values() for array in pair), default=0.0)
    causes = list(explain_silent(pairs, ordered, scale, declared))
    gradients = [_gradient(name, *pairs[name], scale) for name in ordered]
    alive = [gradient for gradient in gradients if gradient is not None]
    differing = [gradient for gradient in alive if gradient.before > gradient.noise]
    if differing:
        ratios, explained = _ratios(alive, differing, loss_ratio)
        causes.extend(ratios)
        rest = [gradient for gradient in differing if gradient.name not in explained]
        for gradient in reversed(rest[-_TENSORS_LOOKED_AT:]):
            kind = declared[gradient.name].module_type if gradient.name in declared else ""
            causes.extend(
                explain_rows(gradient.name, gradient.torch, gradient.paddle, gradient.before, gradient.noise, kind)
            )
    return rank(causes)


def _gradient(name: str, torch: np.ndarray | None, paddle: np.ndarray | None, scale: float) -> _Gradient | None:
    """Return the pair in float64, or None where a side is silent, both are noise, or the shapes differ."""
    if torch is None or paddle is None or torch.shape != paddle.shape or not torch.size:
        return None
    if min(greatest(torch), greatest(paddle)) <= NOISE_SHARE * scale:
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


def _ratios(
    alive: list[_Gradient], differing: list[_Gradient], loss_ratio: float | None
) -> tuple[list[Cause], set[str]]:
    """Return the causes of gradients that are torch's times a constant, and the names that these causes are about."""
    fitted = []
    for gradient in differing:
        value, after = fit.factor(gradient.torch, gradient.paddle)
        if fit.explains(gradient.before, after, gradient.noise):
            fitted.append((gradient, value, after))
    if len(fitted) < len(differing):
        return _some_ratios(fitted, differing)
    if all(gradient.torch.size == 1 for gradient in differing):
        return [], set()
    causes = list(_all_ratios(fitted, alive, differing, loss_ratio))
    return (causes, {gradient.name for gradient in differing}) if causes else _some_ratios(fitted, differing)


def _some_ratios(fitted: list[_Fitted], differing: list[_Gradient]) -> tuple[list[Cause], set[str]]:
    """Return the cause of those of the gradients that differ which share one constant, exactly, while others do not."""
    exact = [
        item
        for item in fitted
        if item[0].torch.size > 1 and item[2] <= _EXACT * item[0].noise and abs(item[1] - 1.0) > _SAME_RATIO
    ]
    groups = [
        [item for item in exact if abs(item[1] - value) <= _SAME_RATIO * abs(value)] for _, value, _ in exact if value
    ]
    largest = max(groups, key=len, default=[])
    if sum(gradient.torch.size for gradient, _, _ in largest) < _FEWEST_NUMBERS:
        return [], set()
    ratio = float(np.median([value for _, value, _ in largest]))
    listed = [gradient.name for gradient, _, _ in largest]
    evidence = (
        f"paddle = {number(ratio)} x torch for {count(len(listed), 'gradient')} ({names(listed)}); "
        f"the other {len(differing) - len(listed)} that differ are not"
    )
    fix = f"look for a factor of {number(ratio)} in what the loss takes from {listed[-1]}: the weight of a term, say"
    return [Cause(Category.BACKWARD, "gradient_scale", 0.7, evidence, fix)], set(listed)


def _all_ratios(
    fitted: list[_Fitted], alive: list[_Gradient], differing: list[_Gradient], loss_ratio: float | None
) -> Iterator[Cause]:
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
