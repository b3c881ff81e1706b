"""Which elements of a large parameter are held against the optimizer's rule: those in doubt, and an even sample."""

from __future__ import annotations

from functools import lru_cache
from typing import Optional

import numpy as np

from stepalign.coordinator.comparison.blocks import stored_places

SAMPLED_ELEMENTS = 1 << 15
MOST_SUSPECTS = 1 << 15

_SHAPES_KEPT = 16
"""A quarter of a megabyte each; a model has few shapes of more than twice `SAMPLED_ELEMENTS`."""


def choose_elements(size: int, suspects: np.ndarray) -> Optional[np.ndarray]:
    """Return the flat indices to judge: all suspects (thinned evenly beyond `MOST_SUSPECTS`) and an even sample; None:
    all.
    """
    if size <= 2 * SAMPLED_ELEMENTS:
        return None
    grid = _even_grid(size)
    if not suspects.size:
        return grid
    if suspects.size > MOST_SUSPECTS:
        suspects = suspects[:: -(-suspects.size // MOST_SUSPECTS)]
    merged = np.sort(np.concatenate((grid, suspects)), kind="stable")
    return merged[np.concatenate(([True], merged[1:] != merged[:-1]))]


def places_in_transpose(rows: int, columns: int, chosen: np.ndarray) -> np.ndarray:
    """Return where chosen elements lie in a matrix of ``rows`` by ``columns`` that is stored transposed."""
    if chosen is _even_grid(rows * columns):
        return _grid_in_transpose(rows, columns)
    return stored_places(rows, columns, chosen)


@lru_cache(_SHAPES_KEPT)
def _even_grid(size: int) -> np.ndarray:
    grid = np.arange(0, size, max(1, size // SAMPLED_ELEMENTS) | 1)
    grid.flags.writeable = False
    return grid


@lru_cache(_SHAPES_KEPT)
def _grid_in_transpose(rows: int, columns: int) -> np.ndarray:
    return stored_places(rows, columns, _even_grid(rows * columns))
