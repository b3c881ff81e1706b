"""What one step is asked to collect, and what it gave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, FrozenSet, List, Tuple

import numpy as np

Arrays = Dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What a framework is told before a script runs. ``device`` is ``"cpu"`` or ``"gpu"`` (the one visible GPU)."""

    dtype: str
    seed: int
    device: str
    threads: int


@dataclass(frozen=True)
class Capture:
    """The kinds of value to collect in a step, and globs of module paths for ``activation``."""

    kinds: FrozenSet[str] = frozenset()
    activations: Tuple[str, ...] = ()


@dataclass
class StepOutcome:
    """One optimizer step: the rate of each group that its update used, its loss (0-d, dtype kept), named arrays by
    kind.
    """

    lr: List[float]
    loss: np.ndarray
    tensors: Dict[str, Arrays] = field(default_factory=dict)
