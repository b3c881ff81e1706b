"""Optimizer state under canonical names, and the sizes by which tolerances are scaled."""

from __future__ import annotations

import math
from typing import Dict, Optional, Tuple

import numpy as np

from stepalign.coordinator.comparison.measures import magnitude, squares
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.messages import Named

Arrays = Dict[str, np.ndarray]
States = Dict[str, Arrays]
"""Optimizer state by canonical parameter name, then by slot."""


def canonical_state(names: NameMap, side: str, state: Named) -> States:
    """Return optimizer state (``tensor/slot``) by canonical name and slot; what has not the tensor's shape is taken as
    it is.
    """
    by_tensor: States = {}
    for key, array in state.items():
        tensor, _, slot = key.rpartition("/")
        by_tensor.setdefault(tensor, {})[slot] = array
    found: States = {}
    for piece in names.pieces:
        place = piece.slot(side)
        if place.tensor in by_tensor:
            slots = by_tensor[place.tensor].items()
            found[piece.name] = {slot: _in_order(place.read(array)) if array.ndim else array for slot, array in slots}
    return found


def canonical_arrays(names: NameMap, side: str, arrays: Named) -> Arrays:
    """Return named arrays as pieces in C order: what is stored transposed is turned once, for all that reads it."""
    return {name: _in_order(array) for name, array in names.canonical(side, arrays).items()}


def _in_order(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array) if array.ndim else array


class Sizes:
    """Magnitudes of one step's arrays, each found once."""

    def __init__(self) -> None:
        self._known: Dict[int, Tuple[np.ndarray, float]] = {}

    def __call__(self, array: np.ndarray) -> float:
        """Return the greatest finite magnitude of ``array``, which must not change."""
        known = self._known.get(id(array))
        if known is None:
            known = self._known[id(array)] = (array, magnitude(array))
        return known[1]


def largest_slots(state: States, size: Sizes) -> Dict[str, float]:
    """Return the greatest magnitude of each slot over all parameters."""
    largest: Dict[str, float] = {}
    for slots in state.values():
        for slot, array in slots.items():
            if array.ndim:
                largest[slot] = max(largest.get(slot, 0.0), size(array))
    return largest


def is_noise(gradient: Optional[np.ndarray], floor: float, size: Sizes) -> bool:
    """Say whether a gradient is nothing but rounding noise beside the model's other gradients."""
    return gradient is not None and size(gradient) <= floor


def relative_drift(
    parameters: Tuple[Arrays, Arrays], gradients: Tuple[Arrays, Arrays], floor: float, size_of: Sizes
) -> float:
    """Return |paddle - torch| / |torch| in L2 over all parameters whose gradient is more than rounding noise."""
    apart = size = 0.0
    for name, array in parameters[0].items():
        other, gradient = parameters[1].get(name), gradients[0].get(name)
        if other is None or other.shape != array.shape or is_noise(gradient, floor, size_of):
            continue
        apart_square, square = squares(array, other)
        apart += apart_square
        size += square
    drift = math.sqrt(apart / size) if size else 0.0
    return drift if math.isfinite(drift) else 0.0
