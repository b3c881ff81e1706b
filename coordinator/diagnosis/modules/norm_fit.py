"""Finds the epsilon that a normalisation used, from its input and its output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stepalign.coordinator.diagnosis.array_fit import Array

_GRID = np.concatenate([[0.0], 10.0 ** np.arange(-14.0, 0.01, 0.25)])
COMMON = (0.0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


def moments(inputs: Array, axes: Sequence[int], center: bool) -> tuple[Array, Array]:
    """Return ``inputs`` less their mean, if ``center``, and the variance over ``axes`` together."""
    mean = np.mean(inputs, axis=tuple(axes), keepdims=True) if center else np.zeros((1,) * inputs.ndim)
    centred = inputs - mean
    return centred, np.mean(centred**2, axis=tuple(axes), keepdims=True)


def normalise(centred: Array, variance: Array, epsilon: float, is_outside: bool) -> Array | None:
    """Return what is normalised with this epsilon; None where it leaves nothing to divide by."""
    if float(np.min(variance)) + epsilon <= 0.0:
        return None
    return centred / (np.sqrt(variance) + epsilon if is_outside else np.sqrt(variance + epsilon))


def affine(z: Array, outputs: Array, others: tuple[int, ...], center: bool) -> tuple[Array, Array]:
    """Return (scale, shift) of ``outputs = scale * z + shift``, the same along ``others``; no shift unless ``center``."""
    z_mean = np.mean(z, axis=others, keepdims=True) if center else np.zeros_like(z)
    y_mean = np.mean(outputs, axis=others, keepdims=True) if center else np.zeros_like(z)
    square = np.sum((z - z_mean) ** 2, axis=others, keepdims=True)
    product = np.sum((z - z_mean) * (outputs - y_mean), axis=others, keepdims=True)
    scale = np.divide(product, square, out=np.zeros_like(square), where=square > 0.0)
    return scale, y_mean - scale * z_mean


def fit_epsilon(
    inputs: Array,
    outputs: Array,
    axes: Sequence[int],
    channel_axes: Sequence[int],
    center: bool,
    is_outside: bool = False,
) -> tuple[float, float]:
    """Return (epsilon, relative L2 left over) of ``outputs = scale * (x - mean) / sqrt(var + epsilon) + shift``.

    With ``is_outside`` it is ``(x - mean) / (sqrt(var) + epsilon)``.

    ``axes`` are normalised together; ``scale`` and ``shift`` vary over ``channel_axes``, fitted by least squares.
    ``center`` is False for RMS norm: no mean is taken and no shift added. Common values are preferred to fitted ones.
    """
    others = tuple(axis for axis in range(inputs.ndim) if axis not in channel_axes)
    centred, variance = moments(inputs, axes, center)

    def left(epsilon: float) -> float:
        z = normalise(centred, variance, epsilon, is_outside)
        if z is None:
            return float("inf")
        scale, shift = affine(z, outputs, others, center)
        return float(np.linalg.norm(outputs - scale * z - shift) / max(float(np.linalg.norm(outputs)), 1e-300))

    best = min((float(value) for value in _GRID), key=left)
    for share in (0.2, 0.05, 0.01, 0.002, 0.0005):
        span = [best * (1.0 + share * step) for step in range(-6, 7)] if best else []
        best = min([best, *span], key=left)
    value = left(best)
    for common in COMMON:
        if left(common) <= 1.05 * value + 1e-12:
            return common, left(common)
    return best, value
