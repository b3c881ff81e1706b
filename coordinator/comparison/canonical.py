"""Both sides' arrays under canonical names and in canonical order, and the sizes by which tolerances are scaled.

What one side stores transposed is turned when it is read, and kept turned only while it fits a limit: a large model's
tensors are read in place, one after the other, and never held twice.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from typing import Callable, Dict, Iterable, Iterator, Mapping, Optional, Tuple

import numpy as np

from stepalign.coordinator.comparison.blocks import in_c_order, magnitude, squares
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.messages import Named

TURNED_SIZE_BYTES = 512 << 20
"""Of arrays that are kept turned."""

RESIDENT_SIZE_BYTES = 512 << 20
"""Of what was read in place before its pages are given back, where a step is larger than this twice."""

Arrays = Mapping[str, np.ndarray]
States = Dict[str, "Pieces"]
"""Optimizer state by canonical parameter name, then by slot."""


class Turned:
    """Gives arrays in C order: as they are, or turned, the latest kept. Any thread may read."""

    def __init__(self, give_pages_back: Optional[Callable[[], None]] = None) -> None:
        self._give_pages_back = give_pages_back
        self._kept: "OrderedDict[int, Tuple[np.ndarray, np.ndarray]]" = OrderedDict()
        self._kept_size_bytes = 0
        self._read_size_bytes = 0
        self._sparing = False
        self._lock = threading.Lock()

    def expect(self, size_bytes: int) -> None:
        """Note how much the arrays hold that are read from here on."""
        self._sparing = size_bytes > 2 * RESIDENT_SIZE_BYTES

    def read(self, array: np.ndarray) -> np.ndarray:
        """Return ``array``, which must not change, in C order."""
        self._count(array.nbytes)
        if not array.ndim or array.flags.c_contiguous:
            return array
        with self._lock:
            known = self._kept.get(id(array))
            if known is not None:
                self._kept.move_to_end(id(array))
                return known[1]
        turned = in_c_order(array)
        with self._lock:
            if id(array) not in self._kept:
                self._kept[id(array)] = (array, turned)
                self._kept_size_bytes += turned.nbytes
            while self._kept_size_bytes > TURNED_SIZE_BYTES:
                self._kept_size_bytes -= self._kept.popitem(last=False)[1][1].nbytes
        return turned

    def forget_all_but(self, arrays: Iterable[np.ndarray]) -> None:
        """Let go of what is none of ``arrays``."""
        still = {id(array) for array in arrays}
        with self._lock:
            for key in [key for key in self._kept if key not in still]:
                self._kept_size_bytes -= self._kept.pop(key)[1].nbytes

    def _count(self, size_bytes: int) -> None:
        self._read_size_bytes += size_bytes
        if self._sparing and self._give_pages_back is not None and self._read_size_bytes > RESIDENT_SIZE_BYTES:
            self._read_size_bytes = 0
            self._give_pages_back()


class Pieces(Mapping[str, np.ndarray]):
    """One side's arrays as pieces, by canonical name or by slot, each in C order when it is read."""

    def __init__(self, parts: Arrays, turned: Turned) -> None:
        self.parts = parts
        self._turned = turned

    def __getitem__(self, name: str) -> np.ndarray:
        return self._turned.read(self.parts[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __contains__(self, name: object) -> bool:
        return name in self.parts

    def over(self, other: "Pieces") -> "Pieces":
        """Return these pieces, and those of ``other`` that are not among them."""
        return Pieces({**other.parts, **self.parts}, self._turned)


def canonical_state(names: NameMap, side: str, state: Named, turned: Optional[Turned] = None) -> States:
    """Return optimizer state (``tensor/slot``) by canonical name and slot; what has not the tensor's shape is taken as
    it is.
    """
    turned = turned or Turned()
    by_tensor: Dict[str, Named] = {}
    for key, array in state.items():
        tensor, _, slot = key.rpartition("/")
        by_tensor.setdefault(tensor, {})[slot] = array
    found: States = {}
    for piece in names.pieces if by_tensor else ():
        place = piece.slot(side)
        if place.tensor in by_tensor:
            slots = by_tensor[place.tensor].items()
            parts = {slot: place.read(array) if array.ndim else array for slot, array in slots}
            found[piece.name] = Pieces(parts, turned)
    return found


def canonical_arrays(names: NameMap, side: str, arrays: Named, turned: Optional[Turned] = None) -> Pieces:
    """Return named arrays as pieces in C order."""
    return Pieces(names.canonical(side, arrays), turned or Turned())


class Sizes:
    """Magnitudes of one step's arrays, each found once for as long as the array lives."""

    def __init__(self) -> None:
        self._known: "Dict[int, Tuple[weakref.ref[np.ndarray], float]]" = {}

    def __call__(self, array: np.ndarray) -> float:
        """Return the greatest finite magnitude of ``array``, which must not change."""
        known = self._known.get(id(array))
        if known is None or known[0]() is not array:
            known = self._known[id(array)] = (weakref.ref(array), magnitude(array))
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
