"""Moves weights by about what two correct sides differ by in one step: an ULP in float32, a part of 1e-8 in float64."""

from __future__ import annotations

from typing import Dict

import numpy as np

FLOAT64_STEP = 2.0**-27
"""In float64 the frameworks differ by constants that paddle keeps in float32 (1e-8), far more than by rounding."""

Arrays = Dict[str, np.ndarray]


def move_half(parameters: Arrays, step: int) -> Arrays:
    """Return floating ``parameters`` with a random half of the elements moved to a neighbouring number; by ``step``,
    the same.
    """
    moved: Arrays = {}
    for number, (name, array) in enumerate(parameters.items()):
        if array.dtype.kind != "f" or not array.size:
            continue
        random = np.random.default_rng((step, number))
        up = random.random(array.shape) < 0.5
        if array.dtype == np.float64:
            neighbour = array * np.where(up, 1.0 + FLOAT64_STEP, 1.0 - FLOAT64_STEP)
        else:
            neighbour = np.nextafter(array, np.where(up, np.inf, -np.inf).astype(array.dtype))
        moved[name] = np.where(random.random(array.shape) < 0.5, neighbour, array)
    return moved
