"""Moves weights by the least that their dtype knows: what rounding does to a correct port, done on purpose."""

from __future__ import annotations

from typing import Dict

import numpy as np

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
        target = np.where(random.random(array.shape) < 0.5, np.inf, -np.inf).astype(array.dtype)
        neighbour = np.nextafter(array, target)
        moved[name] = np.where(random.random(array.shape) < 0.5, neighbour, array)
    return moved
