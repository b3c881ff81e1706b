"""The scans of a step's pairs, and what is found from all of them."""

from __future__ import annotations

import math
import weakref
from typing import Container, Dict, Optional, Tuple

import numpy as np

from stepalign.coordinator.comparison.blocks import squares
from stepalign.coordinator.comparison.canonical import Arrays, Pieces, Sizes
from stepalign.coordinator.comparison.scan import Scan, scan


class Scans:
    """The scans of one step's pairs, each made once; what they show of the references' magnitudes goes to ``sizes``."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._known: "Dict[Tuple[int, int], Tuple[weakref.ref[np.ndarray], weakref.ref[np.ndarray], Scan]]" = {}

    def take(self, pair: Tuple[Arrays, Arrays], with_squares: bool = False) -> None:
        """Scan whatever both sides have."""
        for name in pair[0]:
            ours, theirs = as_stored(pair[0], name), as_stored(pair[1], name)
            if ours is None or theirs is None or self._find(ours, theirs) is not None:
                continue
            found = scan(ours, theirs, with_squares)
            if found is not None:
                self._known[id(ours), id(theirs)] = (weakref.ref(ours), weakref.ref(theirs), found)
                self.sizes.note(ours, found.magnitude)

    def forget(self) -> None:
        """Forget all."""
        self._known = {}

    def of(self, pair: Tuple[Arrays, Arrays], name: str) -> Optional[Scan]:
        """Return the scan of what both sides have under ``name``; None where there is none. Nothing is read for it."""
        ours, theirs = (side.parts.get(name) if isinstance(side, Pieces) else side.get(name) for side in pair)
        return None if ours is None or theirs is None else self._find(ours, theirs)

    def _find(self, ours: np.ndarray, theirs: np.ndarray) -> Optional[Scan]:
        known = self._known.get((id(ours), id(theirs)))
        return known[2] if known is not None and known[0]() is ours and known[1]() is theirs else None


def relative_drift(parameters: Tuple[Arrays, Arrays], noise: Container[str], scans: Scans) -> float:
    """Return |paddle - torch| / |torch| in L2 over all parameters but those that only rounding ``noise`` moves."""
    apart = size = 0.0
    for name in parameters[0]:
        ours, theirs = as_stored(parameters[0], name), as_stored(parameters[1], name)
        if ours is None or theirs is None or theirs.shape != ours.shape:
            continue
        if name in noise:
            continue
        known = scans.of(parameters, name)
        apart_square, square = known.squares if known is not None and known.squares is not None else squares(ours, theirs)
        apart += apart_square
        size += square
    drift = math.sqrt(apart / size) if size else 0.0
    return drift if math.isfinite(drift) else 0.0


def as_stored(arrays: Arrays, name: str) -> Optional[np.ndarray]:
    """Return an array in the order in which it lies; None where there is none."""
    return arrays.stored(name) if isinstance(arrays, Pieces) else arrays.get(name)
