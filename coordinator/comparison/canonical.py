"""Both sides' arrays under canonical names and in canonical order, and the sizes by which tolerances are scaled.

What one side stores transposed is turned when it is read in C order, and only the latest is kept: a large model's tensors
are read in place, one after the other, and hardly ever held twice.
"""

from __future__ import annotations

import weakref
from typing import Callable, Dict, Iterator, Mapping, Optional, Tuple

import numpy as np

from stepalign.coordinator.comparison.blocks import in_c_order, is_turned, magnitude
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.messages import Named

RESIDENT_SIZE_BYTES = 512 << 20
"""Of what was read in place before its pages are given back, where a step is larger than this twice."""

Arrays = Mapping[str, np.ndarray]
States = Dict[str, "Pieces"]
"""Optimizer state by canonical parameter name, then by slot."""


class Reading:
    """Counts what is read of arrays that lie in memory shared with the workers, and gives its pages back now and then."""

    def __init__(self, give_pages_back: Optional[Callable[[], None]] = None) -> None:
        self._give_pages_back = give_pages_back
        self._read_size_bytes = 0
        self._sparing = False

    def expect(self, size_bytes: int) -> None:
        """Note how much the arrays hold that are read from here on."""
        self._sparing = size_bytes > 2 * RESIDENT_SIZE_BYTES

    def note(self, size_bytes: int) -> None:
        """Note that so much is about to be read."""
        self._read_size_bytes += size_bytes
        if self._sparing and self._give_pages_back is not None and self._read_size_bytes > RESIDENT_SIZE_BYTES:
            self._read_size_bytes = 0
            self._give_pages_back()


class Pieces(Mapping[str, np.ndarray]):
    """One side's arrays as pieces, by canonical name or by slot, each in C order when it is read: a matrix that is stored
    transposed is turned then, and the latest kept. `stored` gives it as it lies.
    """

    def __init__(self, parts: Arrays, reading: Optional[Reading] = None) -> None:
        self.parts = parts
        self._reading = reading or Reading()
        self._latest: Optional[Tuple[np.ndarray, np.ndarray]] = None

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.parts[name]
        self._reading.note(array.nbytes)
        if not is_turned(array):
            return array
        if self._latest is None or self._latest[0] is not array:
            self._latest = (array, in_c_order(array))
        return self._latest[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __contains__(self, name: object) -> bool:
        return name in self.parts

    def stored(self, name: str) -> Optional[np.ndarray]:
        """Return an array in canonical shape, in the order in which it lies; None where there is none."""
        array = self.parts.get(name)
        if array is not None:
            self._reading.note(array.nbytes)
        return array

    def over(self, other: "Pieces") -> "Pieces":
        """Return these pieces, and those of ``other`` that are not among them."""
        return Pieces({**other.parts, **self.parts}, self._reading)


def canonical_state(names: NameMap, side: str, state: Named, reading: Optional[Reading] = None) -> States:
    """Return optimizer state (``tensor/slot``) by canonical name and slot; what has not the tensor's shape is taken as
    it is.
    """
    reading = reading or Reading()
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
            found[piece.name] = Pieces(parts, reading)
    return found


def canonical_arrays(names: NameMap, side: str, arrays: Named, reading: Optional[Reading] = None) -> Pieces:
    """Return named arrays as pieces."""
    return Pieces(names.canonical(side, arrays), reading)


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

    def note(self, array: np.ndarray, magnitude: float) -> None:
        """Take the magnitude of an array that was found otherwise."""
        self._known[id(array)] = (weakref.ref(array), magnitude)

    def forget_dead(self) -> None:
        """Forget arrays that are gone."""
        self._known = {key: item for key, item in self._known.items() if item[0]() is not None}


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
