"""Explains outputs that one side brings to length one along an axis, and the other along another axis or not at all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause

_ONE = 2e-5
"""How far from one a length of float32 numbers may be that was divided by itself."""


def explain_unit_length(where: str, ours: Array, theirs: Array) -> Iterator[Cause]:
    """Find the axis along which each side's vectors have length one."""
    if ours.ndim < 2 or ours.shape != theirs.shape:
        return
    axes = _unit_axis(ours), _unit_axis(theirs)
    if axes[0] == axes[1]:
        return
    if None not in axes:
        evidence = f"{where}: vectors have length 1 along axis {axes[0]} in torch and along axis {axes[1]} in paddle"
        yield Cause(Category.FORWARD, "axis", 0.97, evidence, f"axis={axes[0]} in the normalisation at {where} of the paddle model")
        return
    axis = axes[0] if axes[0] is not None else axes[1]
    assert axis is not None
    if any(fit.left_over(_scaled(side, axis), _scaled(ours, axis)) > _ONE for side in (ours, theirs)):
        return
    if axes[0] is not None:
        evidence = f"{where}: torch brings vectors to length 1 along axis {axis}, paddle leaves them as they are"
        fix = f"paddle.nn.functional.normalize(x, axis={axis}) at {where} of the paddle model"
    else:
        evidence = f"{where}: paddle brings vectors to length 1 along axis {axis}, torch leaves them as they are"
        fix = f"leave the normalisation along axis {axis} out at {where} of the paddle model"
    yield Cause(Category.FORWARD, "unit_length", 0.96, evidence, fix)


def _lengths(values: Array, axis: int) -> Array:
    return np.asarray(np.linalg.norm(values, axis=axis, keepdims=True))


def _scaled(values: Array, axis: int) -> Array:
    length = _lengths(values, axis)
    return values / np.where(length > 0.0, length, 1.0)


def _unit_axis(values: Array) -> int | None:
    """Return the axis along which all vectors have length one, of those that hold more than one number."""
    for axis in range(1, values.ndim + 1):
        if values.shape[-axis] > 1 and np.all(np.abs(_lengths(values, -axis) - 1.0) <= _ONE):
            return values.ndim - axis
    return None
