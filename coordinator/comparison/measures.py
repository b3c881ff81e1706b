"""How far two arrays are apart: all measures in one pass over blocks that fit the cache, equal bytes first.

Arithmetic is float64 whatever the arrays hold. Nothing is broadcast: shape and dtype are compared before any number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from stepalign.coordinator.comparison import compiled
from stepalign.coordinator.comparison.blocks import BLOCK_ELEMENTS, flat, lane_sum, same_and_finite, same_bytes
from stepalign.coordinator.comparison.scan import Scan

_FAR = 1e38
"""Below this, a difference is finite in any dtype that is screened."""

_SAFELY = 1.0 - 1e-12
"""A bound times this holds whatever way its product and its quotient were rounded."""

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
    flat_reference, flat_candidate = flat(reference), flat(candidate)
    if not flat_reference.size:
        return Measures(0)
    if flat_reference.dtype.kind == "f" and same_and_finite(flat_reference, flat_candidate):
        return _equal(flat_reference, finite=True)
    if same_bytes(flat_reference, flat_candidate):
        return _equal(flat_reference, finite=flat_reference.dtype.kind != "f")
    totals = _Totals(min(BLOCK_ELEMENTS, flat_reference.size))
    kernels = compiled.for_arrays(flat_reference, flat_candidate)
    start = 0
    while start < flat_reference.size:
        if kernels is not None:
            start = kernels.measure(flat_reference, flat_candidate, start, BLOCK_ELEMENTS, rtol, atol, totals.sums)
        stop = start + BLOCK_ELEMENTS
        if start < flat_reference.size:
            totals.add(flat_reference[start:stop], flat_candidate[start:stop], start, rtol, atol)
        start = stop
    return totals.result(flat_reference, flat_candidate, reference.shape)


def screen(
    reference: np.ndarray, candidate: np.ndarray, rtol: float, atol: float, scanned: Optional[Scan] = None
) -> Optional[Measures]:
    """Return the greatest difference if every element is finite and within tolerance, else None: then `measure` is for
    it.

    Works in the arrays' own dtype, three light passes over blocks that fit the cache: the difference of two numbers
    within a factor of two of each other is exact there. For float32 and float64 arrays of one shape and dtype. A scan of
    them that shows enough spares the passes.
    """
    if reference.dtype.kind != "f" or reference.dtype.itemsize < 4 or not reference.size:
        return None
    number = None if reference.ndim else screen_number(float(reference), float(candidate), rtol, atol, reference.itemsize == 4)
    if number is not None:
        return number
    if scanned is not None and scanned.within(atol):
        return _screened(reference, candidate, scanned.max_abs, scanned.position)
    flat_reference, flat_candidate = flat(reference), flat(candidate)
    kernels = compiled.for_arrays(flat_reference, flat_candidate)
    if kernels is not None:
        found = kernels.screen(flat_reference, flat_candidate, BLOCK_ELEMENTS, rtol, atol)
        return None if found is None else _screened(reference, candidate, *found)
    if same_and_finite(flat_reference, flat_candidate):
        return _screened(reference, candidate, 0.0, 0)
    room = np.empty((2, min(BLOCK_ELEMENTS, flat_reference.size)), reference.dtype)
    peak, position = -1.0, 0
    with np.errstate(all="ignore"):
        for start in range(0, flat_reference.size, BLOCK_ELEMENTS):
            block = flat_reference[start : start + BLOCK_ELEMENTS]
            difference, allowed = room[:, : block.size]
            np.subtract(flat_candidate[start : start + BLOCK_ELEMENTS], block, out=difference)
            np.abs(difference, out=difference)
            largest = float(difference.max())
            if not math.isfinite(largest):
                return None
            if not largest <= atol:
                np.abs(block, out=allowed)
                np.multiply(rtol, allowed, out=allowed)
                np.add(atol, allowed, out=allowed)
                if not np.all(difference <= allowed):
                    return None
            if largest > peak:
                peak, position = largest, start + int(difference.argmax())
    return _screened(reference, candidate, peak, position)


def screen_number(reference: float, candidate: float, rtol: float, atol: float, is_float32: bool) -> Optional[Measures]:
    """Return what `screen` gives for two numbers that are within half of their tolerance, however that is rounded."""
    difference = abs(candidate - reference)
    if not (difference < _FAR and difference <= 0.5 * (atol + rtol * abs(reference))):
        return None
    peak = float(np.float32(difference)) if is_float32 else difference
    return Measures(1, max_abs=peak, reference=reference, candidate=candidate, complete=False)


def _screened(reference: np.ndarray, candidate: np.ndarray, peak: float, position: int) -> Measures:
    index = tuple(int(item) for item in np.unravel_index(position, reference.shape))
    return Measures(
        reference.size,
        max_abs=peak,
        index=index,
        reference=float(reference[index]),
        candidate=float(candidate[index]),
        complete=False,
    )


def _equal(flat: np.ndarray, finite: bool) -> Measures:
    nonfinite = 0 if finite else int(flat.size - np.count_nonzero(np.isfinite(flat)))
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

    def __init__(self, block: int) -> None:
        self.sums = compiled.Totals(max_abs=-1.0)
        self.reference_nonfinite = self.candidate_nonfinite = 0
        self.nonfinite_at: Optional[int] = None
        self._block = block
        self._room: Optional[np.ndarray] = None

    def add(self, reference: np.ndarray, candidate: np.ndarray, start: int, rtol: float, atol: float) -> None:
        if self._room is None:
            self._room = np.empty((4, self._block), np.float64)
        wide_reference, wide_candidate, difference, room = self._room[:, : reference.size]
        np.copyto(wide_reference, reference)
        np.copyto(wide_candidate, candidate)
        with np.errstate(all="ignore"):
            np.subtract(wide_candidate, wide_reference, out=difference)
            np.abs(difference, out=difference)
            peak = float(difference.max())
            finite = math.isfinite(peak)
            if not finite:
                wide_reference, wide_candidate, difference = self._without_nonfinite(
                    wide_reference, wide_candidate, difference, start
                )
                peak = float(difference.max())
            if peak > self.sums.max_abs:
                self.sums.max_abs, self.sums.position = peak, start + int(difference.argmax())
            self.sums.difference_square += lane_sum(np.multiply(difference, difference, out=room))
            self.sums.reference_square += lane_sum(np.multiply(wide_reference, wide_reference, out=room))
            self.sums.candidate_square += lane_sum(np.multiply(wide_candidate, wide_candidate, out=room))
            self.sums.product += lane_sum(np.multiply(wide_reference, wide_candidate, out=room))
            magnitude = np.abs(wide_reference, out=wide_reference)
            self._add_relative(difference, magnitude, room, peak, rtol, atol)
        if reference.dtype.kind == "f":
            self.sums.max_ulp = max(self.sums.max_ulp, _max_ulp(reference, candidate, finite))

    def _add_relative(
        self, difference: np.ndarray, magnitude: np.ndarray, room: np.ndarray, peak: float, rtol: float, atol: float
    ) -> None:
        """Take in what is relative to the reference; what cannot change a result is not computed.

        What an element needs, (difference - atol) / magnitude, is never above its relative difference.
        """
        relative = float(np.fmax.reduce(np.divide(difference, magnitude, out=room), initial=0.0))
        self.sums.max_rel = max(self.sums.max_rel, relative)
        if peak <= atol:
            return
        beyond = difference if atol == 0.0 else np.subtract(difference, atol, out=difference)
        needed = relative
        if relative > self.sums.smallest_rtol or not relative < rtol * _SAFELY:
            if atol != 0.0:
                needed = float(np.fmax.reduce(np.divide(beyond, magnitude, out=room), initial=0.0))
            self.sums.smallest_rtol = max(self.sums.smallest_rtol, needed)
        if not needed < rtol * _SAFELY:
            self.sums.outside += int(np.count_nonzero(beyond > np.multiply(rtol, magnitude, out=room)))

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
            self.sums.outside += int(differs.sum())
            if self.nonfinite_at is None:
                self.nonfinite_at = start + int(differs.argmax())
        bad = bad_reference | bad_candidate
        return np.where(bad, 0.0, reference), np.where(bad, 0.0, candidate), np.where(bad, 0.0, difference)

    def result(self, reference: np.ndarray, candidate: np.ndarray, shape: Tuple[int, ...]) -> Measures:
        position = self.sums.position if self.nonfinite_at is None else self.nonfinite_at
        if reference.size != math.prod(shape):
            position_in_shape = position // 2
        else:
            position_in_shape = position
        norm = math.sqrt(self.sums.reference_square)
        other = math.sqrt(self.sums.candidate_square)
        return Measures(
            count=reference.size,
            max_abs=math.inf if self.nonfinite_at is not None else max(self.sums.max_abs, 0.0),
            max_rel=math.inf if self.nonfinite_at is not None else self.sums.max_rel,
            rel_l2=math.sqrt(self.sums.difference_square) / norm if norm else (math.inf if self.sums.difference_square else 0.0),
            max_ulp=self.sums.max_ulp,
            cosine=self.sums.product / (norm * other) if norm and other else (1.0 if norm == other else 0.0),
            outside=self.sums.outside,
            smallest_rtol=math.inf if self.nonfinite_at is not None else self.sums.smallest_rtol,
            index=tuple(int(item) for item in np.unravel_index(position_in_shape, shape)),
            reference=float(reference[position]),
            candidate=float(candidate[position]),
            reference_nonfinite=self.reference_nonfinite,
            candidate_nonfinite=self.candidate_nonfinite,
            nonfinite_differs=self.nonfinite_at is not None,
        )


_INTEGER_OF = {2: np.int16, 4: np.int32, 8: np.int64}


def _max_ulp(reference: np.ndarray, candidate: np.ndarray, finite: bool) -> int:
    """Return the greatest distance in representable numbers between finite values (Bruce Dawson's ordered integers).

    ``finite``: every value is. Numbers of one sign are as far apart as their bits, others as their magnitudes' sum.
    """
    if not finite:
        both = np.isfinite(reference) & np.isfinite(candidate)
        reference, candidate = reference[both], candidate[both]
        if not reference.size:
            return 0
    kind = _INTEGER_OF[reference.dtype.itemsize]
    ours, theirs = reference.view(kind), candidate.view(kind)
    room = np.bitwise_xor(ours, theirs)
    crossing = np.flatnonzero(room < 0) if room.min() < 0 else None
    np.subtract(ours, theirs, out=room)
    farthest = 0
    if crossing is not None:
        room[crossing] = 0
        mask = np.iinfo(kind).max
        magnitudes = ((side[crossing] & mask).astype(np.uint64) for side in (ours, theirs))
        farthest = int(np.add(*magnitudes).max())
    return max(farthest, int(room.max()), -int(room.min()))
