"""Optimizer state under canonical names, and the sizes by which tolerances are scaled."""

from __future__ import annotations

import math
from typing import Dict, Optional, Tuple

import numpy as np

from stepalign.coordinator.comparison.measures import squares
from stepalign.coordinator.naming import NameMap
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
            found[piece.name] = {slot: place.read(array) if array.ndim else array for slot, array in slots}
    return found


def largest_slots(state: States) -> Dict[str, float]:
    """Return the greatest magnitude of each slot over all parameters."""
    largest: Dict[str, float] = {}
    for slots in state.values():
        for slot, array in slots.items():
            if array.ndim:
                largest[slot] = max(largest.get(slot, 0.0), magnitude(array))
    return largest


def is_noise(gradient: Optional[np.ndarray], floor: float) -> bool:
    """Say whether a gradient is nothing but rounding noise beside the model's other gradients."""
    return gradient is not None and magnitude(gradient) <= floor


def relative_drift(parameters: Tuple[Arrays, Arrays], gradients: Tuple[Arrays, Arrays], floor: float) -> float:
    """Return |paddle - torch| / |torch| in L2 over all parameters whose gradient is more than rounding noise."""
    apart = size = 0.0
    for name, array in parameters[0].items():
        other, gradient = parameters[1].get(name), gradients[0].get(name)
        if other is None or other.shape != array.shape or (gradient is not None and magnitude(gradient) <= floor):
            continue
        apart_square, square = squares(array, other)
        apart += apart_square
        size += square
    drift = math.sqrt(apart / size) if size else 0.0
    return drift if math.isfinite(drift) else 0.0


def magnitude(array: np.ndarray) -> float:
    """Return the greatest finite magnitude; 0.0 for an empty array."""
    if not array.size:
        return 0.0
    peak = float(max(abs(float(array.max())), abs(float(array.min()))))
    if not math.isfinite(peak):
        finite = np.abs(array[np.isfinite(array)])
        peak = float(finite.max()) if finite.size else 0.0
    return peak
