"""What one step is asked to collect, and what it gave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Dict, FrozenSet, List, Tuple

import numpy as np

Arrays = Dict[str, np.ndarray]

Room = Callable[[Tuple[int, ...], str], np.ndarray]
"""Gives a C-ordered array of a shape and a dtype's name to be filled: in memory shared with the coordinator, or not."""


def own_room(shape: Tuple[int, ...], dtype: str) -> np.ndarray:
    """Return an array in this process's own memory."""
    return np.empty(shape, dtype)


@dataclass(frozen=True)
class Settings:
    """What a framework is told before a script runs. ``device`` is ``"cpu"`` or ``"gpu"`` (the one visible GPU)."""

    dtype: str
    seed: int
    device: str
    threads: int


@dataclass(frozen=True)
class Capture:
    """The kinds of value to collect in a step, globs of module paths for ``activation``, and where values are copied to."""

    kinds: FrozenSet[str] = frozenset()
    activations: Tuple[str, ...] = ()
    room: Room = own_room


@dataclass
class StepOutcome:
    """One optimizer step: the rate of each group that its update used, its loss (0-d, dtype kept), named arrays by
    kind.
    """

    lr: List[float]
    loss: np.ndarray
    tensors: Dict[str, Arrays] = field(default_factory=dict)


def same_bytes(first: np.ndarray, second: np.ndarray) -> bool:
    """Tell whether two arrays are the same in shape, dtype and every byte."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    ours, theirs = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (first, second))
    return bool(np.array_equal(ours, theirs))
