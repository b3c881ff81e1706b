"""Explains the output of a normalisation by its epsilon, of another value or at another place, or by 1 + weight for weight.

Both sides have the same weights: what is told has to give paddle's output with the scale and shift of torch's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.declared.common_terms import as_float
from stepalign.coordinator.diagnosis.modules.norm_fit import COMMON, affine, fit_epsilon, moments, normalise
from stepalign.coordinator.diagnosis.wording import number
from stepalign.protocol.specs import ModuleSpec, Scalar

_FAR_BETTER = 0.5

_SAME_SCALE = 1e-5
"""What the fit of a norm may leave over, of its output, where both sides have the same epsilon."""


def explain_norm(
    where: str,
    torch_module: ModuleSpec,
    paddle_module: ModuleSpec,
    inputs: Array,
    ours: Array,
    theirs: Array,
    before: float,
) -> Iterator[Cause]:
    """Fit the epsilon of layer, RMS, instance and group norm to both outputs, and the 1 that one of them may add."""
    kind = torch_module.type
    if inputs.shape != ours.shape or "Norm" not in kind or "BatchNorm" in kind or inputs.ndim < 2:
        return
    x, y, z = inputs, ours, theirs
    if kind in ("LayerNorm", "RMSNorm"):
        size = _normalised_axes(torch_module.hyperparameters.get("normalized_shape"), inputs)
        axes: tuple[int, ...] = tuple(range(inputs.ndim - size, inputs.ndim))
        channels = axes
    elif kind.startswith("InstanceNorm") and inputs.ndim > 2:
        axes, channels = tuple(range(2, inputs.ndim)), (1,)
    elif kind == "GroupNorm":
        groups = int(as_float(torch_module.hyperparameters.get("num_groups"), 1.0))
        shape = (inputs.shape[0], groups, inputs.shape[1] // groups, -1)
        x, y, z = inputs.reshape(shape), ours.reshape(shape), theirs.reshape(shape)
        axes, channels = (2, 3), (1, 2)
    else:
        return
    center = kind != "RMSNorm"
    torch_eps, torch_left, torch_outside = _placed_epsilon(x, y, axes, channels, center)
    paddle_eps, _, paddle_outside = _placed_epsilon(x, z, axes, channels, center)
    spread = moments(x, axes, center)
    ours_normalised = normalise(*spread, torch_eps, torch_outside)
    theirs_normalised = normalise(*spread, paddle_eps, paddle_outside)
    if ours_normalised is None or theirs_normalised is None:
        return
    scale, shift = affine(ours_normalised, y, tuple(axis for axis in range(x.ndim) if axis not in channels), center)
    yield from _added_one(where, ours_normalised, scale, shift, y, z)
    same_place = torch_outside == paddle_outside
    left = max(torch_left, fit.left_over(z, scale * theirs_normalised + shift))
    if (torch_eps == paddle_eps and same_place) or left > 0.1 * before:
        return
    declared = torch_module.hyperparameters.get("eps")
    shown = declared if isinstance(declared, float) else torch_eps
    torch_said, paddle_said = (
        f"{number(value)} outside the root" if is_outside else number(value)
        for value, is_outside in ((torch_eps, torch_outside), (paddle_eps, paddle_outside))
    )
    evidence = (
        f"{where}: the outputs fit epsilon {torch_said} in torch and {paddle_said} in paddle "
        f"(left over {left:.0e} of a difference of {before:.0e})"
    )
    name = paddle_module.framework_class
    fix = f"epsilon={number(shown)} in paddle.nn.{name.rsplit('.', 1)[-1]}(...) of {where}"
    if not same_place:
        form = "x / (root + epsilon)" if torch_outside else "x / sqrt(mean square + epsilon)"
        fix = f"add epsilon {number(shown)} where torch does in {where} of the paddle model: {form}"
    elif name.partition(".")[0] not in ("paddle", "nn"):
        fix = f"epsilon {number(shown)} in {where} of the paddle model"
    yield Cause(
        Category.HYPERPARAMETER,
        "norm_epsilon",
        fit.certainty(before, left, 0.0, 0.95),
        evidence,
        fix,
    )


def _added_one(where: str, normalised: Array, scale: Array, shift: Array, ours: Array, theirs: Array) -> Iterator[Cause]:
    """Find a norm that multiplies by 1 + weight on one side and by weight on the other."""
    for sign, fix in (
        (1.0, f"multiply by 1 + weight in {where} of the paddle model, as torch does"),
        (-1.0, f"multiply by weight, not by 1 + weight, in {where} of the paddle model"),
    ):
        if np.linalg.norm(theirs - (scale - sign) * normalised - shift) <= _SAME_SCALE * np.linalg.norm(ours):
            names = ("torch", "paddle") if sign > 0.0 else ("paddle", "torch")
            evidence = f"{where}: {names[0]} multiplies what it has normalised by 1 + weight, {names[1]} by weight alone"
            yield Cause(Category.FORWARD, "norm_weight_offset", 0.96, evidence, fix)


def _placed_epsilon(
    x: Array, y: Array, axes: tuple[int, ...], channels: tuple[int, ...], center: bool
) -> tuple[float, float, bool]:
    """Return (epsilon, what it leaves over, whether it is outside the root); inside unless outside fits far better."""
    inside, left = fit_epsilon(x, y, axes, channels, center)
    if inside in COMMON:
        return inside, left, False
    outside, outside_left = fit_epsilon(x, y, axes, channels, center, is_outside=True)
    if outside in COMMON and outside_left < _FAR_BETTER * left:
        return outside, outside_left, True
    return inside, left, False


def _normalised_axes(shape: Scalar, inputs: Array) -> int:
    if isinstance(shape, (tuple, list)) and 0 < len(shape) < inputs.ndim:
        return len(shape)
    return 1
