"""How far two arrays are apart: all measures in one pass over blocks that fit the cache, equal bytes first.

Arithmetic is float64 whatever the arrays hold. Nothing is broadcast: shape and dtype are compared before any number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

BLOCK_ELEMENTS = 1 << 15


@dataclass(frozen=True)
class Measures:
    """Differences of a candidate from a reference.

    ``index`` is where the greatest absolute difference is; where one side is not finite and the other differs, that
    place comes first and ``max_abs`` is infinite. Without ``complete`` only ``count``, ``max_abs``, ``index`` and the
    two values were measured (`screen`). ``max_rel`` and ``smallest_rtol`` are relative to the reference.
    ``max_ulp`` is in units of the arrays' own dtype. ``outside`` counts elements beyond atol + rtol * |reference|.
    """

    count: int
    max_abs: float = 0.0
    max_rel: float = 0.0
    rel_l2: float = 0.0
    max_ulp: int = 0
    cosine: float = 1.0
    outside: int = 0
    smallest_rtol: float = 0.0
    index: Tuple[int, ...] = ()
    reference: float = 0.0
    candidate: float = 0.0
    reference_nonfinite: int = 0
    candidate_nonfinite: int = 0
    nonfinite_differs: bool = False
    complete: bool = True


def measure(reference: np.ndarray, candidate: np.ndarray, rtol: float, atol: float) -> Measures:
    """Return the measures of two arrays of one shape and dtype (any of `protocol.tensors.DTYPES`, complex as
    magnitudes).

    Raises ValueError if shape or dtype differ: the caller reports that before asking for numbers.
    """
    if reference.shape != candidate.shape or reference.dtype != candidate.dtype:
        raise ValueError(f"{reference.dtype}{reference.shape} against {candidate.dtype}{candidate.shape}")
    flat_reference, flat_candidate = _flat(reference), _flat(candidate)
    if not flat_reference.size:
        return Measures(0)
    if _same_bytes(flat_reference, flat_candidate):
        return _equal(flat_reference)
    totals = _Totals()
    for start in range(0, flat_reference.size, BLOCK_ELEMENTS):
        stop = start + BLOCK_ELEMENTS
        totals.add(flat_reference[start:stop], flat_candidate[start:stop], start, rtol, atol)
    return totals.result(flat_reference, flat_candidate, reference.shape)


def dot(one: np.ndarray, other: np.ndarray) -> float:
    """Return the dot product of two vectors on this thread alone: BLAS would spread it over the workers' cores."""
    return float(np.einsum("i,i->", one, other))


def squares(reference: np.ndarray, candidate: np.ndarray) -> Tuple[float, float]:
    """Return |candidate - reference|^2 and |reference|^2, summed block by block in the arrays' own dtype."""
    ours, theirs = _flat(reference), _flat(candidate)
    apart = size = 0.0
    with np.errstate(all="ignore"):
        for start in range(0, ours.size, BLOCK_ELEMENTS):
            block = ours[start : start + BLOCK_ELEMENTS]
            difference = theirs[start : start + BLOCK_ELEMENTS] - block
            apart += dot(difference, difference)
            size += dot(block, block)
    return apart, size


def _flat(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "c":
        array = np.ascontiguousarray(array).reshape(-1).view(array.real.dtype)
    return np.ascontiguousarray(array).reshape(-1)


def _same_bytes(reference: np.ndarray, candidate: np.ndarray) -> bool:
    """Compare bytes block by block, in words where they fill the block; ends at the first block that differs."""
    ours, theirs = reference.view(np.uint8), candidate.view(np.uint8)
    words = ours.size // 8 * 8
    if not np.array_equal(ours[words:], theirs[words:]):
        return False
    ours, theirs = ours[:words].view(np.uint64), theirs[:words].view(np.uint64)
    return all(
        np.array_equal(ours[start : start + BLOCK_ELEMENTS], theirs[start : start + BLOCK_ELEMENTS])
        for start in range(0, ours.size, BLOCK_ELEMENTS)
    )


def screen(reference: np.ndarray, candidate: np.ndarray, rtol: float, atol: float) -> Optional[Measures]:
    """Return the greatest difference if every element is finite and within tolerance, else None: then `measure` is for
    it.

    Works in the arrays' own dtype, three light passes over blocks that fit the cache: the difference of two numbers
    within a factor of two of each other is exact there. For float32 and float64 arrays of one shape and dtype.
    """
    if reference.dtype.kind != "f" or reference.dtype.itemsize < 4 or not reference.size:
        return None
    flat_reference, flat_candidate = _flat(reference), _flat(candidate)
    apart = np.empty(min(BLOCK_ELEMENTS, flat_reference.size), reference.dtype)
    peak, position = -1.0, 0
    with np.errstate(all="ignore"):
        for start in range(0, flat_reference.size, BLOCK_ELEMENTS):
            block = flat_reference[start : start + BLOCK_ELEMENTS]
            difference = apart[: block.size]
            np.subtract(flat_candidate[start : start + BLOCK_ELEMENTS], block, out=difference)
            np.abs(difference, out=difference)
            largest = float(difference.max())
            if not largest <= atol and not np.all(difference <= atol + rtol * np.abs(block)):
                return None
            if largest > peak:
                peak, position = largest, start + int(difference.argmax())
    return Measures(
        flat_reference.size,
        max_abs=peak,
        index=tuple(int(item) for item in np.unravel_index(position, reference.shape)),
        reference=float(flat_reference[position]),
        candidate=float(flat_candidate[position]),
        complete=False,
    )


def _equal(flat: np.ndarray) -> Measures:
    nonfinite = int(flat.size - np.isfinite(flat).sum()) if flat.dtype.kind == "f" else 0
    first = float(flat[0])
    return Measures(
        flat.size,
        index=(),
        reference=first,
        candidate=first,
        reference_nonfinite=nonfinite,
        candidate_nonfinite=nonfinite,
    )


class _Totals:
    """What accumulates from block to block."""

    def __init__(self) -> None:
        self.max_abs = -1.0
        self.position = 0
        self.max_rel = 0.0
        self.max_ulp = 0
        self.outside = 0
        self.smallest_rtol = 0.0
        self.difference_square = self.reference_square = self.candidate_square = self.product = 0.0
        self.reference_nonfinite = self.candidate_nonfinite = 0
        self.nonfinite_at: Optional[int] = None

    def add(self, reference: np.ndarray, candidate: np.ndarray, start: int, rtol: float, atol: float) -> None:
        wide_reference = reference.astype(np.float64)
        wide_candidate = candidate.astype(np.float64)
        with np.errstate(all="ignore"):
            difference = np.abs(wide_candidate - wide_reference)
            total = float(difference.sum())
            if not math.isfinite(total):
                wide_reference, wide_candidate, difference = self._without_nonfinite(
                    wide_reference, wide_candidate, difference, start
                )
            peak = int(difference.argmax())
            if difference[peak] > self.max_abs:
                self.max_abs, self.position = float(difference[peak]), start + peak
            magnitude = np.abs(wide_reference)
            self.difference_square += dot(difference, difference)
            self.reference_square += dot(wide_reference, wide_reference)
            self.candidate_square += dot(wide_candidate, wide_candidate)
            self.product += dot(wide_reference, wide_candidate)
            relative = difference / magnitude
            self.max_rel = max(self.max_rel, float(np.nanmax(relative, initial=0.0)))
            beyond = difference - atol
            self.outside += int(np.count_nonzero(beyond > rtol * magnitude))
            needed = beyond / magnitude
            self.smallest_rtol = max(self.smallest_rtol, float(np.nanmax(needed, initial=0.0)))
        if reference.dtype.kind == "f":
            self.max_ulp = max(self.max_ulp, _max_ulp(reference, candidate))

    def _without_nonfinite(
        self, reference: np.ndarray, candidate: np.ndarray, difference: np.ndarray, start: int
    ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Count what is not finite, note the first place where only one side is so or the two differ, and set it to
        zero.
        """
        bad_reference, bad_candidate = ~np.isfinite(reference), ~np.isfinite(candidate)
        self.reference_nonfinite += int(bad_reference.sum())
        self.candidate_nonfinite += int(bad_candidate.sum())
        same = (np.isnan(reference) & np.isnan(candidate)) | (reference == candidate)
        differs = (bad_reference | bad_candidate) & ~same
        if differs.any():
            self.outside += int(differs.sum())
            if self.nonfinite_at is None:
                self.nonfinite_at = start + int(differs.argmax())
        bad = bad_reference | bad_candidate
        return np.where(bad, 0.0, reference), np.where(bad, 0.0, candidate), np.where(bad, 0.0, difference)

    def result(self, reference: np.ndarray, candidate: np.ndarray, shape: Tuple[int, ...]) -> Measures:
        position = self.position if self.nonfinite_at is None else self.nonfinite_at
        if reference.size != math.prod(shape):
            position_in_shape = position // 2
        else:
            position_in_shape = position
        norm = math.sqrt(self.reference_square)
        other = math.sqrt(self.candidate_square)
        return Measures(
            count=reference.size,
            max_abs=math.inf if self.nonfinite_at is not None else max(self.max_abs, 0.0),
            max_rel=math.inf if self.nonfinite_at is not None else self.max_rel,
            rel_l2=math.sqrt(self.difference_square) / norm if norm else (math.inf if self.difference_square else 0.0),
            max_ulp=self.max_ulp,
            cosine=self.product / (norm * other) if norm and other else (1.0 if norm == other else 0.0),
            outside=self.outside,
            smallest_rtol=math.inf if self.nonfinite_at is not None else self.smallest_rtol,
            index=tuple(int(item) for item in np.unravel_index(position_in_shape, shape)),
            reference=float(reference[position]),
            candidate=float(candidate[position]),
            reference_nonfinite=self.reference_nonfinite,
            candidate_nonfinite=self.candidate_nonfinite,
            nonfinite_differs=self.nonfinite_at is not None,
        )


_INTEGER_OF = {2: np.int16, 4: np.int32, 8: np.int64}


def _max_ulp(reference: np.ndarray, candidate: np.ndarray) -> int:
    """Return the greatest distance in representable numbers between finite values (Bruce Dawson's ordered integers)."""
    kind = _INTEGER_OF[reference.dtype.itemsize]
    ordered = []
    for array in (reference, candidate):
        bits = array.view(kind)
        ordered.append(np.where(bits < 0, np.iinfo(kind).min - bits, bits).astype(np.float64))
    distance = np.abs(ordered[0] - ordered[1])
    finite = np.isfinite(reference) & np.isfinite(candidate)
    return int(np.max(distance, where=finite, initial=0.0))
