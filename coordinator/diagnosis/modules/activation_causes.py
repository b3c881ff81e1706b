"""Explains the output of the first module that differs, given its type on both sides and, if known, its input.

The input is taken to be the same on both sides: the module is the first that differs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.declared.common_terms import as_float
from stepalign.coordinator.diagnosis.modules.activation_bounds import explain_bounds
from stepalign.coordinator.diagnosis.modules.activation_layout import explain_layout
from stepalign.coordinator.diagnosis.modules.elementwise import FUNCTIONS, negative_slope, softmax
from stepalign.coordinator.diagnosis.modules.norm_causes import explain_norm
from stepalign.coordinator.diagnosis.modules.precision_causes import explain_precision
from stepalign.coordinator.diagnosis.modules.unit_length import explain_unit_length
from stepalign.coordinator.diagnosis.ranking import rank
from stepalign.coordinator.diagnosis.wording import number
from stepalign.protocol.specs import ModuleSpec

_SAMPLE = 4096
_SURE = 0.9
"""From this confidence on a cause leaves factors of rows, which follow from it, nothing to say."""

_SAME_SLOPE = 1e-4
"""Ten times what the fit of a slope may leave over: what is nearer is rounding, of an identity too."""

_BIJECTIVE = ("exp", "sigmoid", "tanh", "softplus", "softsign", "logsigmoid")
"""Functions that one side may apply to what the other gives; what clips or bends is told by bounds and slopes."""

_EXPONENTS = 80.0

_NICE_RATES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def explain_activation(
    torch_module: ModuleSpec,
    paddle_module: ModuleSpec,
    torch_output: np.ndarray,
    paddle_output: np.ndarray,
    torch_input: np.ndarray | None = None,
    paddle_input: np.ndarray | None = None,
) -> list[Cause]:
    """Return the causes that explain why one module's outputs differ, most likely first; none where they agree.

    Outputs are compared as they are, paddle's in paddle's own shape. ``torch_input`` is the module's first input;
    with it activation functions, epsilons and softmax axes are fitted. An input that itself differs is not used.
    """
    ours, theirs = fit.as_array(torch_output), fit.as_array(paddle_output)
    where = paddle_module.path or "the model"
    if not np.all(np.isfinite(theirs)) or not np.all(np.isfinite(ours)):
        return _nonfinite(where, ours, theirs)
    noise = fit.rounding(torch_output, paddle_output)
    before = fit.left_over(ours, theirs)
    if before <= noise / 100.0 or not ours.size:
        return []
    if ours.shape != theirs.shape:
        return rank(explain_layout(where, ours, theirs, before, noise))
    inputs = None if torch_input is None else fit.as_array(torch_input)
    if (
        inputs is not None
        and paddle_input is not None
        and fit.left_over(inputs, fit.as_array(paddle_input)) > 0.01 * before
    ):
        inputs = None
    causes = list(_dropout(where, torch_module, paddle_module, ours, theirs, noise))
    causes.extend(explain_precision(where, torch_output, paddle_output))
    if inputs is not None:
        causes.extend(_batch_first(where, torch_module, paddle_module, inputs))
        causes.extend(_function(where, inputs, ours, theirs))
        causes.extend(_softmax(where, inputs, ours, theirs))
        causes.extend(explain_norm(where, torch_module, paddle_module, inputs, ours, theirs, before))
    causes.extend(_once_more(where, ours, theirs))
    causes.extend(explain_unit_length(where, ours, theirs))
    causes.extend(_slope(where, ours, theirs, noise))
    if before > noise:
        causes.extend(explain_bounds(where, ours, theirs, noise))
        causes.extend(_factor_or_offset(where, torch_module, ours, theirs, before, noise))
        causes.extend(_statistics(where, torch_module, ours, theirs, before, noise))
        sure = any(cause.confidence >= _SURE for cause in causes)
        layout = explain_layout(where, ours, theirs, before, noise)
        causes.extend(cause for cause in layout if not sure or cause.code != "row_scale")
    return rank(causes)


def _nonfinite(where: str, ours: Array, theirs: Array) -> list[Cause]:
    bad = [side for side, values in (("torch", ours), ("paddle", theirs)) if not np.all(np.isfinite(values))]
    if len(bad) == 2 and ours.shape == theirs.shape and np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
        return []
    values = theirs if "paddle" in bad else ours
    evidence = (
        f"{where} gives {int(np.count_nonzero(~np.isfinite(values)))} values that are not finite in {' and '.join(bad)}"
    )
    fix = (
        f"look in {where} of the paddle model for a mask of -inf over a whole row, a division or log of zero, an "
        "overflow"
    )
    return [Cause(Category.NONFINITE, "activation", 0.95, evidence, fix)]


def _dropout(
    where: str, torch_module: ModuleSpec, paddle_module: ModuleSpec, ours: Array, theirs: Array, noise: float
) -> Iterator[Cause]:
    """Find zeros at random places on one side or both, and the rest scaled by 1 / (1 - p)."""
    ours_zero, theirs_zero = ours == 0.0, theirs == 0.0
    only_ours, only_theirs = ours_zero & ~theirs_zero, theirs_zero & ~ours_zero
    shares = [float(np.mean(only_ours)), float(np.mean(only_theirs))]
    if min(shares) > 0.01:
        both = ~ours_zero & ~theirs_zero
        if both.any() and fit.left_over(ours[both], theirs[both]) <= 10.0 * noise:
            evidence = (
                f"{where}: each side has zeros of its own ({shares[0]:.1%} and {shares[1]:.1%} of all); the rest agrees"
            )
            fix = 'run with mode = "eval", or [compare] dropout = "shared" to give both sides the same masks'
            yield Cause(Category.RANDOMNESS, "dropout_masks", 0.97, evidence, fix)
        return
    for share, zero, a, b, side in (
        (shares[1], only_theirs, ours, theirs, "paddle"),
        (shares[0], only_ours, theirs, ours, "torch"),
    ):
        rest = ~ours_zero & ~theirs_zero
        if share < 0.01 or not rest.any() or fit.left_over(a, b) <= noise:
            continue
        value, after = fit.factor(a[rest], b[rest])
        if after > 10.0 * noise or value <= 1.0 or _in_whole_rows(zero):
            continue
        rate = 1.0 - 1.0 / value
        scatter = 5.0 * np.sqrt(rate * (1.0 - rate) / max(1, int(np.count_nonzero(~ours_zero | ~theirs_zero)))) + 0.01
        if abs(share / max(1e-12, float(np.mean(~ours_zero | ~theirs_zero))) - rate) <= scatter:
            evidence = (
                f"{where}: {share:.1%} of {side}'s outputs are zero and the others are {number(value)} = 1 / (1 - "
                f"{number(rate)}) times"
            )
            fix = (
                f"call model.eval() before the paddle steps, or set p=0 in {where}"
                if side == "paddle"
                else (f"give {where} of the paddle model a dropout of {number(rate)}, in training mode")
            )
            yield Cause(Category.RANDOMNESS, "dropout_active", 0.95, evidence, fix)


def _in_whole_rows(zero: np.ndarray) -> bool:
    if zero.ndim < 2:
        return False
    rows = zero.reshape(-1, zero.shape[-1])
    return bool(np.all(rows.all(axis=1) == rows.any(axis=1)))


def _function(where: str, inputs: Array, ours: Array, theirs: Array) -> Iterator[Cause]:
    """Name the activation functions that turn the input into the two outputs."""
    if inputs.shape != ours.shape:
        return
    step = max(1, inputs.size // _SAMPLE)
    x, y, z = (array.ravel()[::step] for array in (inputs, ours, theirs))
    left = {
        name: (fit.left_over(y, function(x)), fit.left_over(z, function(x))) for name, function in FUNCTIONS.items()
    }
    torch_name = min(left, key=lambda name: left[name][0])
    paddle_name = min(left, key=lambda name: left[name][1])
    torch_fits, paddle_fits = left[torch_name][0] < 2e-6, left[paddle_name][1] < 2e-6
    if torch_fits and paddle_fits and torch_name != paddle_name:
        evidence = (
            f"{where} computes {torch_name} in torch and {paddle_name} in paddle, each to "
            f"{max(left[torch_name][0], left[paddle_name][1]):.0e}"
        )
        if torch_name.startswith("gelu") and paddle_name.startswith("gelu"):
            fix = f"approximate={'tanh' in torch_name} in paddle.nn.GELU(...) or F.gelu(...) of {where}"
            yield Cause(Category.FORWARD, "gelu_approximation", 0.97, evidence, fix)
        else:
            yield Cause(
                Category.FORWARD,
                "activation_function",
                0.97,
                evidence,
                f"use {torch_name} at {where} of the paddle model",
            )
        return
    slopes = negative_slope(x, y), negative_slope(x, z)
    if slopes[0] is not None and slopes[1] is not None and abs(slopes[0] - slopes[1]) > _SAME_SLOPE:
        evidence = (
            f"{where} multiplies negative inputs by {number(slopes[0])} in torch and by {number(slopes[1])} in paddle"
        )
        fix = f"negative_slope={number(slopes[0])} in paddle.nn.LeakyReLU(...) of {where}"
        yield Cause(Category.FORWARD, "negative_slope", 0.97, evidence, fix)


def _batch_first(where: str, torch: ModuleSpec, paddle: ModuleSpec, inputs: Array) -> Iterator[Cause]:
    """Find a layer of sequences that is given the same array on both sides and takes another axis of it for the batch."""
    first = torch.hyperparameters.get("batch_first"), paddle.hyperparameters.get("batch_first")
    if inputs.ndim != 3 or not all(isinstance(each, bool) for each in first) or first[0] == first[1]:
        return
    axes = [1 - int(bool(each)) for each in first]
    evidence = (
        f"{where}: both sides are given the same array of shape {inputs.shape}; torch's {torch.type} takes its axis {axes[0]} for "
        f"the batch, paddle's takes axis {axes[1]}"
    )
    fix = (
        f"exchange the first two axes of what goes into {where} of the paddle model and of what comes out, or give both layers "
        "the batch first: batch_first=True in torch, time_major=False in paddle's recurrent layers"
    )
    yield Cause(Category.FORWARD, "batch_first", 0.97, evidence, fix)


def _once_more(where: str, ours: Array, theirs: Array) -> Iterator[Cause]:
    """Find a function that one side alone applies to what the other gives, an exp or a sigmoid, say."""
    step = max(1, ours.size // _SAMPLE)
    y, z = (array.ravel()[::step] for array in (ours, theirs))
    for name in _BIJECTIVE:
        function = FUNCTIONS[name]
        for argument, value, side, fix in (
            (z, y, "torch", f"apply {name} at {where} of the paddle model, as torch does"),
            (y, z, "paddle", f"leave {name} out at {where} of the paddle model"),
        ):
            if not np.all(np.abs(argument) < _EXPONENTS):
                continue
            left = fit.left_over(value, function(argument))
            if left < 2e-6 and left <= fit.EXPLAINED * fit.left_over(value, argument):
                evidence = f"{where}: {side}'s output is {name} of the other side's"
                yield Cause(Category.FORWARD, "activation_function", 0.95, evidence, fix)
                return


def _softmax(where: str, inputs: Array, ours: Array, theirs: Array) -> Iterator[Cause]:
    if inputs.shape != ours.shape or inputs.ndim < 2:
        return
    for what in ("softmax", "log_softmax"):
        axes: list[int | None] = [None, None]
        for axis in range(inputs.ndim):
            fitted = softmax(inputs, axis)
            fitted = np.log(np.maximum(fitted, 1e-300)) if what == "log_softmax" else fitted
            for side, values in enumerate((ours, theirs)):
                if axes[side] is None and fit.left_over(values, fitted) < 2e-6:
                    axes[side] = axis
        if axes[0] is not None and axes[1] is not None and axes[0] != axes[1]:
            evidence = f"{where} takes the {what} over axis {axes[0]} in torch and over axis {axes[1]} in paddle"
            yield Cause(Category.FORWARD, "axis", 0.97, evidence, f"axis={axes[0]} in paddle's {what} of {where}")


def _slope(where: str, ours: Array, theirs: Array, noise: float) -> Iterator[Cause]:
    """Find outputs that agree where positive and are in a constant ratio where negative."""
    positive, negative = ours > 0.0, ours < 0.0
    if not positive.any() or np.count_nonzero(negative) < 2 or fit.left_over(ours[positive], theirs[positive]) > noise:
        return
    value, after = fit.factor(ours[negative], theirs[negative])
    if after <= 10.0 * noise and abs(value - 1.0) > 10.0 * noise:
        evidence = f"{where}: positive outputs agree, negative ones are {number(value)} times torch's"
        fix = (
            f"divide the negative slope of {where} in paddle by {number(value)}"
            if value
            else f"{where} drops negative values in paddle"
        )
        yield Cause(Category.FORWARD, "negative_slope", 0.85, evidence, fix)


def _factor_or_offset(
    where: str, module: ModuleSpec, ours: Array, theirs: Array, before: float, noise: float
) -> Iterator[Cause]:
    if ours.size < 2:
        return
    value, after = fit.factor(ours, theirs)
    if fit.explains(before, after, noise) and value != 0.0:
        yield _factor(where, module, value, fit.certainty(before, after, noise, 0.95))
        return
    value, after = fit.offset(ours, theirs)
    if fit.explains(before, after, noise):
        evidence = f"{where}: paddle = torch + {number(value)} everywhere"
        fix = f"look for a constant that {where} adds on one side"
        yield Cause(Category.FORWARD, "offset", fit.certainty(before, after, noise, 0.9), evidence, fix)
        return
    if ours.ndim >= 2:
        shift = np.mean((theirs - ours).reshape(-1, ours.shape[-1]), axis=0)
        after = fit.left_over(theirs, ours + shift)
        if ours.size > ours.shape[-1] and fit.explains(before, after, noise):
            evidence = f"{where}: paddle = torch + a vector over the last axis (left over {after:.1g})"
            fix = f"check the bias of {where}: missing (bias_attr=False), not loaded, or added twice"
            yield Cause(Category.FORWARD, "bias", fit.certainty(before, after, noise, 0.9), evidence, fix)


def _factor(where: str, module: ModuleSpec, value: float, confidence: float) -> Cause:
    evidence = f"{where}: paddle = {number(value)} x torch everywhere"
    if abs(value + 1.0) < 1e-4:
        return Cause(
            Category.FORWARD, "sign_flipped", confidence, evidence, f"change the sign in {where} of the paddle model"
        )
    rate = as_float(module.hyperparameters.get("p"))
    keeps = [1.0 - rate] if rate else [1.0 - nice for nice in _NICE_RATES] if "Dropout" in module.type else []
    for keep in keeps:
        if keep and min(abs(value - keep), abs(value - 1.0 / keep)) < 1e-4:
            evidence += f"; 1 - p is {number(keep)}"
            fix = (
                f"mode='upscale_in_train' in paddle.nn.Dropout(...) of {where}: torch scales in training, never in "
                "evaluation"
            )
            return Cause(Category.FORWARD, "dropout_mode", confidence, evidence, fix)
    for root in (value, 1.0 / value):
        whole = fit.near_whole(root * root, 1e-3)
        if whole is not None:
            evidence += f"; that is {'' if root == value else '1 / '}sqrt({whole})"
            break
    fix = f"look for a scale of {number(value)} in {where}: a missing 1 / sqrt(d), a temperature, a mean for a sum"
    return Cause(Category.FORWARD, "scale", confidence, evidence, fix)


def _statistics(
    where: str, module: ModuleSpec, ours: Array, theirs: Array, before: float, noise: float
) -> Iterator[Cause]:
    """Find a batch norm whose outputs are related by a line for each channel: it took other statistics."""
    if "BatchNorm" not in module.type or ours.ndim < 2 or ours.size <= 2 * ours.shape[1]:
        return
    a, b = (np.moveaxis(array, 1, 0).reshape(array.shape[1], -1) for array in (ours, theirs))
    a_mean, b_mean = a.mean(axis=1, keepdims=True), b.mean(axis=1, keepdims=True)
    square = np.sum((a - a_mean) ** 2, axis=1, keepdims=True)
    scale = np.divide(
        np.sum((a - a_mean) * (b - b_mean), axis=1, keepdims=True), square, out=np.ones_like(square), where=square > 0.0
    )
    after = fit.left_over(b, b_mean + scale * (a - a_mean))
    if fit.explains(before, after, noise):
        evidence = (
            f"{where}: in each channel paddle is a line of torch (left over {after:.1g}): other means and variances "
            "were used"
        )
        fix = (
            f"same mode for {where} on both sides: .train() takes the batch's statistics, .eval() the running ones; "
            "check epsilon too"
        )
        yield Cause(Category.FORWARD, "batch_norm_statistics", fit.certainty(before, after, noise, 0.85), evidence, fix)
