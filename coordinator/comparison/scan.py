"""One pass over a pair of arrays for what a step asks of every pair: greatest difference, magnitude, squares.

A candidate that is stored transposed is read where it lies, some rows at a time: no turned copy is made. What a scan cannot
settle (something is not finite, or beyond what is allowed everywhere) is looked at element by element (`measures`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from stepalign.coordinator.comparison import compiled
from stepalign.coordinator.comparison.blocks import BLOCK_ELEMENTS, flat, is_turned, magnitude, squares


@dataclass(frozen=True)
class Scan:
    """A candidate against its reference, in the arrays' own dtype.

    ``finite``: every difference is, and so is every element. Then ``max_abs`` is the greatest one and ``position`` the first
    place of it, counted in C order. ``magnitude`` is the reference's greatest finite one. The squared L2 norms of the
    difference and of the reference (`blocks.squares`) are None where they were not asked for.
    """

    magnitude: float
    finite: bool
    max_abs: float
    position: int
    squares: Optional[Tuple[float, float]] = None

    def within(self, atol: float) -> bool:
        """Say whether every element is finite, and within ``atol`` of the reference's."""
        return self.finite and self.max_abs <= atol


def scan(reference: np.ndarray, candidate: np.ndarray, with_squares: bool = False) -> Optional[Scan]:
    """Return what one pass finds; None for arrays that it is not for: other dtypes than float32 and float64, 0-d, empty, two
    shapes or dtypes.
    """
    if reference.dtype.kind != "f" or reference.dtype.itemsize < 4 or not reference.ndim or not reference.size:
        return None
    if reference.shape != candidate.shape or reference.dtype != candidate.dtype:
        return None
    kernels = compiled.for_arrays(reference, candidate.T if is_turned(candidate) else candidate)
    if kernels is not None:
        found = kernels.scan(reference, candidate, BLOCK_ELEMENTS, with_squares)
        sums = (found.difference_square, found.reference_square) if with_squares else None
        if not found.finite:
            return Scan(found.magnitude, False, 0.0, 0, sums)
        return Scan(found.magnitude, True, found.max_abs, found.position, sums)
    ours, theirs = flat(reference), flat(candidate)
    finite, max_abs, position = _greatest_difference(ours, theirs)
    return Scan(magnitude(ours), finite, max_abs, position, squares(ours, theirs) if with_squares else None)


def _greatest_difference(reference: np.ndarray, candidate: np.ndarray) -> Tuple[bool, float, int]:
    """Return whether every difference of two vectors is finite, and then the greatest one and its first place."""
    peak, position = -1.0, 0
    room = np.empty(min(BLOCK_ELEMENTS, reference.size), reference.dtype)
    with np.errstate(all="ignore"):
        for start in range(0, reference.size, BLOCK_ELEMENTS):
            block = reference[start : start + BLOCK_ELEMENTS]
            difference = np.subtract(candidate[start : start + BLOCK_ELEMENTS], block, out=room[: block.size])
            np.abs(difference, out=difference)
            largest = float(difference.max())
            if not math.isfinite(largest):
                return False, 0.0, 0
            if largest > peak:
                peak, position = largest, start + int(difference.argmax())
    return True, peak, position
