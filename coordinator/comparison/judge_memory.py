"""What a `StepJudge` keeps from one step to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Mapping, Set, Tuple

from stepalign.coordinator.comparison.canonical import Arrays
from stepalign.protocol.specs import Scalar


@dataclass
class JudgeMemory:
    """The state before the next step, torch first, in canonical terms; and what was learned on the way.

    ``variants`` has the form of paddle's rule by parameter, ``rounding`` how a side rounds by parameter and side (0 is
    torch), ``adrift`` what follows a tensor that noise moves (`average_judge`). Nothing of it is changed in place by a
    judge but these three.
    """

    before: Tuple[Arrays, Arrays]
    state_before: Tuple[Mapping[str, Arrays], Mapping[str, Arrays]]
    drift: float
    peak_rate: float
    variants: Dict[str, Dict[str, Scalar]]
    rounding: Dict[Tuple[str, int], str]
    adrift: Set[str]
