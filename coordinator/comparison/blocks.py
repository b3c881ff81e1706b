"""Simple quantities of one or two arrays, block by block so that temporaries stay in the cache: compiled, or by numpy.

Both ways give the same bits. Sums are float64 and in one order on every machine: element i of a block goes into lane
i % 64, and the lanes are added in order.
"""

from __future__ import annotations

import ctypes
import math
from typing import Tuple

import numpy as np

from stepalign.coordinator.comparison import compiled

BLOCK_ELEMENTS = 1 << 15
LANES = 64
_EQUAL_ELEMENTS = 1 << 17

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_memcmp.restype = ctypes.c_int


def flat(array: np.ndarray) -> np.ndarray:
    """Return an array's numbers in C order as a vector, complex ones as their parts."""
    if array.dtype.kind == "c":
        array = np.ascontiguousarray(array).reshape(-1).view(array.real.dtype)
    return in_c_order(array).reshape(-1)


def take(array: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the elements at flat indices of C order, from wherever they lie."""
    if is_turned(array):
        rows, columns = array.shape
        array, places = array.T, stored_places(rows, columns, places)
    taken: np.ndarray = array.reshape(-1)[places]
    return taken


def stored_places(rows: int, columns: int, places: np.ndarray) -> np.ndarray:
    """Return where the elements at flat indices of C order lie in a matrix that is stored transposed."""
    row, column = np.divmod(places, columns)
    stored: np.ndarray = column * rows + row
    return stored


def is_turned(array: np.ndarray) -> bool:
    """Say whether a matrix is stored transposed: its own transpose is in C order."""
    return array.ndim == 2 and array.flags.f_contiguous and not array.flags.c_contiguous


def in_c_order(array: np.ndarray) -> np.ndarray:
    """Return an array in C order, itself if it is so already; a transposed matrix is turned tile by tile."""
    if is_turned(array):
        kernels = compiled.for_arrays(array.T)
        if kernels is not None:
            return kernels.turn(array.T)
    return np.ascontiguousarray(array)


def lane_sum(terms: np.ndarray) -> float:
    """Return the sum of a float64 vector, in the order of the lanes; on this thread alone."""
    whole = terms.size - terms.size % LANES
    lanes = np.add.reduce(terms[:whole].reshape(-1, LANES), axis=0)
    lanes[: terms.size - whole] += terms[whole:]
    return float(np.add.accumulate(lanes)[-1])


def dot(one: np.ndarray, other: np.ndarray) -> float:
    """Return the dot product of two vectors in float64 on this thread alone: BLAS would spread it over the workers'
    cores.
    """
    return lane_sum(np.multiply(one, other, dtype=np.float64))


def squares(reference: np.ndarray, candidate: np.ndarray) -> Tuple[float, float]:
    """Return |candidate - reference|^2 and |reference|^2: differences in the arrays' own dtype, sums in float64."""
    ours, theirs = flat(reference), flat(candidate)
    kernels = compiled.for_arrays(ours, theirs)
    if kernels is not None:
        return kernels.squares(ours, theirs, BLOCK_ELEMENTS)
    apart = size = 0.0
    with np.errstate(all="ignore"):
        for start in range(0, ours.size, BLOCK_ELEMENTS):
            block = ours[start : start + BLOCK_ELEMENTS]
            difference = np.subtract(theirs[start : start + BLOCK_ELEMENTS], block)
            apart += dot(difference, difference)
            size += dot(block, block)
    return apart, size


def spread(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Return the greatest finite magnitude of candidate - reference, computed in the arrays' own dtype; 0.0 if there is
    none.
    """
    ours, theirs = flat(reference), flat(candidate)
    kernels = compiled.for_arrays(ours, theirs)
    if kernels is not None:
        return kernels.spread(ours, theirs)
    room = np.empty(min(BLOCK_ELEMENTS, ours.size), np.result_type(ours, theirs))
    farthest = 0.0
    with np.errstate(all="ignore"):
        for start in range(0, ours.size, BLOCK_ELEMENTS):
            block = ours[start : start + BLOCK_ELEMENTS]
            difference = np.subtract(theirs[start : start + BLOCK_ELEMENTS], block, out=room[: block.size])
            farthest = max(farthest, magnitude(difference))
    return farthest


def magnitude(array: np.ndarray) -> float:
    """Return the greatest finite magnitude; 0.0 for an empty array."""
    if not array.size:
        return 0.0
    array = _in_any_order(array)
    kernels = compiled.for_arrays(array)
    if kernels is not None:
        return kernels.magnitude(array)
    peak = float(max(abs(float(array.max())), abs(float(array.min()))))
    if not math.isfinite(peak):
        finite = np.abs(array[np.isfinite(array)])
        peak = float(finite.max()) if finite.size else 0.0
    return peak


def elements_outside(reference: np.ndarray, candidate: np.ndarray, rtol: float, atol: float) -> np.ndarray:
    """Return the flat indices where |candidate - reference| > atol + rtol * |reference|, in the arrays' own dtype."""
    ours, theirs = flat(reference), flat(candidate)
    kernels = compiled.for_arrays(ours, theirs)
    if kernels is not None:
        return kernels.outside(ours, theirs, rtol, atol)
    found = []
    with np.errstate(all="ignore"):
        for start in range(0, ours.size, BLOCK_ELEMENTS):
            block = ours[start : start + BLOCK_ELEMENTS]
            apart = np.abs(theirs[start : start + BLOCK_ELEMENTS] - block)
            found.append(np.flatnonzero(apart > atol + rtol * np.abs(block)) + start)
    return np.concatenate(found) if found else np.empty(0, np.int64)


def same_bytes(reference: np.ndarray, candidate: np.ndarray) -> bool:
    """Say whether two C-ordered arrays of one size hold the same bytes; ends at the first that differs, without the
    GIL.
    """
    return not reference.size or _memcmp(reference.ctypes.data, candidate.ctypes.data, reference.nbytes) == 0


def same_and_finite(reference: np.ndarray, candidate: np.ndarray) -> bool:
    """Say whether two flat arrays of floats hold the same bytes and nothing that is not finite, reading each once."""
    kernels = compiled.for_arrays(reference, candidate)
    if kernels is not None:
        return kernels.same_and_finite(reference, candidate)
    ours, theirs = reference.ctypes.data, candidate.ctypes.data
    with np.errstate(all="ignore"):
        for start in range(0, reference.size, _EQUAL_ELEMENTS):
            block = reference[start : start + _EQUAL_ELEMENTS]
            offset = start * reference.itemsize
            if _memcmp(ours + offset, theirs + offset, block.nbytes) or not _finite(block):
                return False
    return True


def all_finite(array: np.ndarray) -> bool:
    """Say whether every element is finite; none is needed."""
    if array.dtype.kind != "f" or not array.size:
        return True
    array = _in_any_order(array)
    kernels = compiled.for_arrays(array)
    if kernels is not None:
        return kernels.same_and_finite(array, array)
    with np.errstate(all="ignore"):
        return _finite(array)


def _in_any_order(array: np.ndarray) -> np.ndarray:
    """Return an array, or its transpose: whichever lies in C order."""
    array = np.asarray(array)
    return array.T if is_turned(array) else array


def _finite(block: np.ndarray) -> bool:
    return math.isfinite(block.max()) and math.isfinite(block.min())
