"""Where in a tensor two sides differ, if it is a small part of it: one position of a sequence, some channels, the border."""

from __future__ import annotations

from typing import List, Tuple

import numpy as np

_MOST = 0.5
"""Of an axis: what differs at more of its positions is not confined along it."""

_AXES_SHOWN = 2
_LISTED = 6


def confined(torch: np.ndarray, paddle: np.ndarray, rtol: float, atol: float) -> str:
    """Return along which axes the elements beyond atol + rtol * |torch| are confined, and to which positions; empty where
    they are not, or where shapes or dtypes have no such elements.
    """
    if torch.shape != paddle.shape or {torch.dtype.kind, paddle.dtype.kind} - set("fiub") or not torch.ndim:
        return ""
    ours, theirs = torch.astype(np.float64), paddle.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.isfinite(ours) & np.isfinite(theirs) & (np.abs(theirs - ours) <= atol + rtol * np.abs(ours))
        differs = ~(near | (ours == theirs) | (np.isnan(ours) & np.isnan(theirs)))
    if not differs.any():
        return ""
    found: List[Tuple[float, int, np.ndarray]] = []
    for axis, size in enumerate(differs.shape):
        places = np.flatnonzero(differs.any(axis=tuple(other for other in range(differs.ndim) if other != axis)))
        if len(places) <= _MOST * size:
            found.append((len(places) / size, axis, places))
    found.sort(key=lambda item: item[:2])
    parts = [f"{_positions(places, differs.shape[axis])} along axis {axis}" for _, axis, places in found[:_AXES_SHOWN]]
    return f"it differs only at {' and at '.join(parts)}" if parts else ""


def _positions(places: np.ndarray, size: int) -> str:
    """Return positions in order: one, a range, every n-th, or a list."""
    first, last, steps = places[0], places[-1], np.diff(places)
    if len(places) == 1:
        return f"position {first} of {size}"
    if len(places) == 2 or (len(places) <= _LISTED and len(set(steps.tolist())) > 1):
        return f"positions {', '.join(map(str, places))} of {size}"
    if np.all(steps == 1):
        return f"positions {first} to {last} of {size}"
    if np.all(steps == steps[0]):
        return f"positions {first}, {places[1]}, ..., {last} of {size}"
    return f"{len(places)} positions from {first} to {last} of {size}"
