"""Explains the output of a normalisation by its epsilon: another value, or another place, on one side."""

from __future__ import annotations

from collections.abc import Iterator

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.common_terms import as_float
from stepalign.coordinator.diagnosis.norm_fit import COMMON, fit_epsilon
from stepalign.coordinator.diagnosis.wording import number
from stepalign.protocol.specs import ModuleSpec, Scalar

_FAR_BETTER = 0.5


def explain_epsilon(
    where: str,
    torch_module: ModuleSpec,
    paddle_module: ModuleSpec,
    inputs: Array,
    ours: Array,
    theirs: Array,
    before: float,
) -> Iterator[Cause]:
    """Fit the epsilon of layer, RMS, instance and group norm to both outputs."""
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
    paddle_eps, paddle_left, paddle_outside = _placed_epsilon(x, z, axes, channels, center)
    same_place = torch_outside == paddle_outside
    if (torch_eps == paddle_eps and same_place) or max(torch_left, paddle_left) > 0.1 * before:
        return
    declared = torch_module.hyperparameters.get("eps")
    shown = declared if isinstance(declared, float) else torch_eps
    torch_said, paddle_said = (
        f"{number(value)} outside the root" if is_outside else number(value)
        for value, is_outside in ((torch_eps, torch_outside), (paddle_eps, paddle_outside))
    )
    evidence = (
        f"{where}: the outputs fit epsilon {torch_said} in torch and {paddle_said} in paddle "
        f"(left over {max(torch_left, paddle_left):.0e} of a difference of {before:.0e})"
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
        fit.certainty(before, max(torch_left, paddle_left), 0.0, 0.95),
        evidence,
        fix,
    )


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
