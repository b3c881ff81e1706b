"""The compiled loops (`native/`), called through ctypes: without the GIL, and bit for bit what the numpy path gives.

They are built where a C compiler was there at installation, and are for aligned, C-ordered float32 and float64. For
everything else, without the library or with one of another version (a checkout that was installed before it changed), and
with STEPALIGN_KERNELS=numpy, `for_arrays` gives None: numpy does it then.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
from functools import lru_cache
from typing import Any, Callable, Optional, Tuple, cast

import numpy as np

_POINTER, _SIZE, _REAL, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int
VERSION = 2
"""Of the library: kernels.c has the same."""

_MODULE = "stepalign.coordinator.comparison._kernels"

TURNED_ROWS = 48
"""At the least: 192 bytes that lie side by side are read at a time; 768 columns of so many rows fit a second cache."""


class Totals(ctypes.Structure):
    """What `measure` accumulates from block to block; the layout of `totals` in measures.h."""

    _fields_ = [
        *((name, _REAL) for name in ("difference_square", "reference_square", "candidate_square", "product")),
        *((name, _REAL) for name in ("max_abs", "max_rel", "smallest_rtol")),
        *((name, _SIZE) for name in ("position", "outside")),
        ("max_ulp", ctypes.c_uint64),
    ]


class TallySums(ctypes.Structure):
    """What `Tally` accumulates over one array; the layout of `tally` in adam.h."""

    _fields_ = [
        *((name, _REAL) for name in ("squares", "update_squares", "along", "parameter_squares", "slope", "noise")),
        *((name, _REAL) for name in ("max_abs", "worst", "predicted", "actual", "allowed")),
        *((name, _SIZE) for name in ("at", "outside")),
    ]


class Scanned(ctypes.Structure):
    """What one pass over a pair finds; the layout of `scanned` in scan.h."""

    _fields_ = [
        *((name, _REAL) for name in ("magnitude", "max_abs", "difference_square", "reference_square")),
        *((name, _SIZE) for name in ("position", "finite")),
    ]


class AdamRule(ctypes.Structure):
    """The numbers of one Adam step; the layout of `adam_rule` in adam.h."""

    _fields_ = [
        (name, _REAL)
        for name in (
            "gradient_scale", "coupled", "shrink", "beta1", "beta2", "eps", "root_correction2", "correction2", "rate",
            "half_ulps", "update_epsilons", "state_epsilons", "state_floor", "factor",
        )
    ]  # fmt: skip


class AdamArrays(ctypes.Structure):
    """Where the arrays around one Adam step lie; the layout of `adam_arrays` in adam.h. Without moments: null."""

    _fields_ = [
        (name, _POINTER) for name in ("before", "gradient", "moment1", "moment2", "after", "later1", "later2")
    ]


class Kernels:
    """The library's functions for one dtype. Sizes are in elements; arrays are flat and not empty."""

    def __init__(self, library: ctypes.CDLL, dtype: str) -> None:
        narrow = ctypes.c_float if dtype == "float32" else ctypes.c_double

        def bind(name: str, result: Any, *arguments: Any) -> Any:
            function = getattr(library, f"{name}_{dtype}")
            function.restype, function.argtypes = result, arguments
            return function

        pair = (_POINTER, _POINTER)
        self._same_and_finite = bind("same_and_finite", _INT, *pair, _SIZE)
        self._magnitude = bind("magnitude", _REAL, _POINTER, _SIZE)
        self._spread = bind("spread", _REAL, *pair, _SIZE)
        self._squares = bind("squares", None, *pair, _SIZE, _SIZE, _POINTER)
        self._outside = bind(
            "outside", _SIZE, *pair, _SIZE, _SIZE, narrow, narrow, _POINTER, _SIZE, ctypes.POINTER(_SIZE)
        )
        self._screen = bind("screen", _INT, *pair, _SIZE, _SIZE, _REAL, _REAL, _POINTER, _POINTER)
        self._measure = bind("measure", _SIZE, *pair, _SIZE, _SIZE, _SIZE, _REAL, _REAL, _POINTER)
        self._scan = bind("scan", None, *pair, _SIZE, _SIZE, _INT, _SIZE, _POINTER, _SIZE, _POINTER)
        self._turn = bind("turn", None, *pair, _SIZE, _SIZE)
        self.adam_moved = bind("adam_moved", _SIZE, _POINTER, _POINTER, _SIZE)
        self.adam_factor = bind(
            "adam_factor", None, _POINTER, _POINTER, _POINTER, _SIZE, _POINTER, _SIZE, _INT, _POINTER
        )
        self.adam_judge = bind("adam_judge", _INT, _POINTER, _POINTER, _POINTER, _SIZE, _SIZE, _POINTER)

    def same_and_finite(self, reference: np.ndarray, candidate: np.ndarray) -> bool:
        """Say whether both hold the same bytes and nothing that is not finite."""
        return bool(self._same_and_finite(address(reference), address(candidate), reference.size))

    def magnitude(self, array: np.ndarray) -> float:
        """Return the greatest finite magnitude."""
        return float(self._magnitude(address(array), array.size))

    def spread(self, reference: np.ndarray, candidate: np.ndarray) -> float:
        """Return the greatest finite magnitude of the difference."""
        return float(self._spread(address(reference), address(candidate), reference.size))

    def squares(self, reference: np.ndarray, candidate: np.ndarray, block: int) -> Tuple[float, float]:
        """Return the squared L2 norms of the difference and of the reference."""
        sums = (_REAL * 2)()
        self._squares(address(reference), address(candidate), reference.size, block, sums)
        return sums[0], sums[1]

    def outside(self, reference: np.ndarray, candidate: np.ndarray, rtol: float, atol: float) -> np.ndarray:
        """Return the indices of the elements out of tolerance."""
        room = np.empty(min(reference.size + 512, 1 << 16), np.int64)
        found, place = [], _SIZE(0)
        where = address(reference), address(candidate)
        while place.value < reference.size:
            count = self._outside(
                *where, place.value, reference.size, rtol, atol, address(room), room.size, ctypes.byref(place)
            )
            found.append(room[:count].copy())
        return np.concatenate(found)

    def screen(
        self, reference: np.ndarray, candidate: np.ndarray, block: int, rtol: float, atol: float
    ) -> Optional[Tuple[float, int]]:
        """Return the greatest difference and where it is; None where an element is not finite or out of tolerance."""
        peak, position = _REAL(), _SIZE()
        sizes = (reference.size, block, rtol, atol)
        inside = self._screen(
            address(reference), address(candidate), *sizes, ctypes.addressof(peak), ctypes.addressof(position)
        )
        return (peak.value, position.value) if inside else None

    def scan(self, reference: np.ndarray, candidate: np.ndarray, block: int, with_squares: bool) -> Scanned:
        """Return what one pass finds; ``candidate`` may be a matrix that is stored transposed."""
        found = Scanned(finite=1)
        rows, window, room = 0, 0, None
        if not candidate.flags.c_contiguous:
            rows, columns = candidate.shape
            window = _rows_at_a_time(columns, block)
            room = np.empty((min(window, rows), columns), candidate.dtype)
        self._scan(
            address(reference), address(candidate), reference.size, block, with_squares,
            rows, None if room is None else address(room), window, ctypes.addressof(found),
        )  # fmt: skip
        return found

    def turn(self, matrix: np.ndarray) -> np.ndarray:
        """Return the transpose of a matrix in C order."""
        rows, columns = matrix.shape
        turned = np.empty((columns, rows), matrix.dtype)
        self._turn(address(matrix), address(turned), rows, columns)
        return turned

    def measure(
        self, reference: np.ndarray, candidate: np.ndarray, start: int, block: int, rtol: float, atol: float, totals: Totals
    ) -> int:
        """Take in blocks from ``start`` on; return the size, or the start of a block for the numpy path."""
        return int(
            self._measure(
                address(reference), address(candidate), start, reference.size, block, rtol, atol, ctypes.addressof(totals)
            )
        )


def _rows_at_a_time(columns: int, block: int) -> int:
    """Return how many rows to turn at a time: so many whole blocks of elements that there are `TURNED_ROWS`, and one row that
    the next of them begins in.
    """
    blocks = -(-TURNED_ROWS * columns // block)
    return -(-blocks * block // columns) + 1


def for_arrays(*arrays: np.ndarray) -> Optional[Kernels]:
    """Return the kernels for arrays of one shape, or None: numpy is for them."""
    first = arrays[0]
    kernels = _loaded().get(first.dtype) if first.size else None
    if kernels is None:
        return None
    for array in arrays:
        if array.dtype != first.dtype or array.size != first.size or not _readable(array):
            return None
    return kernels


def address(array: np.ndarray) -> int:
    """Return where an array's first element lies; the caller keeps the array."""
    return _finder()(array)


def describe() -> str:
    """Return in a word which arithmetic is used."""
    return "compiled" if _loaded() else "numpy"


def _readable(array: np.ndarray) -> bool:
    return bool(array.flags.c_contiguous and array.flags.aligned)


@lru_cache(maxsize=1)
def _finder() -> Callable[[np.ndarray], int]:
    """Return the module's own way to an address, if it was built with Python's headers: numpy's takes 20 times as long."""
    try:
        return cast(Callable[[np.ndarray], int], importlib.import_module(_MODULE).address)
    except (ImportError, AttributeError):
        return lambda array: int(array.ctypes.data)


def _version_of(library: ctypes.CDLL) -> int:
    try:
        return ctypes.c_int32.in_dll(library, "kernels_version").value
    except ValueError:
        return 0


@lru_cache(maxsize=1)
def _loaded() -> "dict[np.dtype[Any], Kernels]":
    found = importlib.util.find_spec(_MODULE)
    if found is None or found.origin is None or os.environ.get("STEPALIGN_KERNELS") == "numpy":
        return {}
    library = ctypes.CDLL(found.origin)
    if _version_of(library) != VERSION:
        return {}
    return {np.dtype(name): Kernels(library, name) for name in ("float32", "float64")}
