"""The activation functions that ports confuse, in numpy float64, with the parameters they are confused by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from stepalign.coordinator.diagnosis.array_fit import Array

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return np.asarray(np.where(x >= 0.0, 1.0, np.exp(np.minimum(x, 0.0))) / (1.0 + np.exp(-np.abs(x))))


def _softplus(x: Array) -> Array:
    return np.asarray(np.logaddexp(0.0, x))


def _selu(x: Array) -> Array:
    negative = 1.6732632423543772 * np.expm1(np.minimum(x, 0.0))
    return np.asarray(1.0507009873554805 * np.where(x > 0.0, x, negative))


FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "gelu (erf)": lambda x: np.asarray(0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))),
    "gelu (tanh)": lambda x: np.asarray(0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))),
    "quick gelu, x * sigmoid(1.702 x)": lambda x: np.asarray(x * _sigmoid(1.702 * x)),
    "silu": lambda x: np.asarray(x * _sigmoid(x)),
    "sigmoid": _sigmoid,
    "tanh": lambda x: np.asarray(np.tanh(x)),
    "hardtanh": lambda x: np.clip(x, -1.0, 1.0),
    "elu": lambda x: np.asarray(np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0)))),
    "selu": _selu,
    "softplus": _softplus,
    "softsign": lambda x: np.asarray(x / (1.0 + np.abs(x))),
    "mish": lambda x: np.asarray(x * np.tanh(_softplus(x))),
    "hardswish": lambda x: np.asarray(x * np.clip(x + 3.0, 0.0, 6.0) / 6.0),
    "hardsigmoid, slope 1/6": lambda x: np.asarray(np.clip(x / 6.0 + 0.5, 0.0, 1.0)),
    "hardsigmoid, slope 0.2": lambda x: np.asarray(np.clip(0.2 * x + 0.5, 0.0, 1.0)),
    "logsigmoid": lambda x: np.asarray(-_softplus(-x)),
    "tanhshrink": lambda x: np.asarray(x - np.tanh(x)),
    "exp": lambda x: np.asarray(np.exp(np.minimum(x, 700.0))),
}


def softmax(x: Array, axis: int) -> Array:
    """Return the softmax of ``x`` over ``axis``."""
    shifted = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return np.asarray(shifted / np.sum(shifted, axis=axis, keepdims=True))


def negative_slope(x: Array, y: Array) -> float | None:
    """Return s where y = x for x > 0 and y = s * x below, if y is such a function of ``x``."""
    below = x < 0.0
    if not below.any() or below.all():
        return None
    slope = float(np.vdot(x[below], y[below]) / np.vdot(x[below], x[below]))
    fitted = np.where(below, slope * x, x)
    return slope if float(np.linalg.norm(fitted - y)) <= 1e-5 * float(np.linalg.norm(y)) else None
