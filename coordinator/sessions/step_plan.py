"""What a drive of two workers is asked for, and what it gives, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Optional, Tuple

from stepalign.protocol.messages import Checkpoint, StepResult


@dataclass(frozen=True)
class StepPair:
    """Both sides' results of one step: the reference's and the candidate's, and the digest of the batch that was
    sent.
    """

    step: int
    reference: StepResult
    candidate: StepResult
    batch_digest: str

    def has_tensors(self) -> bool:
        """Say whether anything but rates and losses was collected."""
        return any(self.reference.tensors.values()) or any(self.candidate.tensors.values())

    def size_bytes(self) -> int:
        """Return how much both sides' tensors hold."""
        sides = (self.reference, self.candidate)
        return sum(array.nbytes for side in sides for named in side.tensors.values() for array in named.values())


@dataclass(frozen=True)
class Keeping:
    """When both sides' whole state is to be kept, and who keeps it.

    ``due`` is asked before a step is sent; with True, once more because the run is being interrupted. ``keep`` gets the
    step that the states stand before, and the states by role, on the comparing thread.
    """

    due: Callable[[bool], bool]
    keep: Callable[[int, Dict[str, Checkpoint]], None]


@dataclass(frozen=True)
class StepPlan:
    """What to run: steps ``first`` to ``last`` (exclusive), and what each step is asked to collect."""

    first: int
    last: int
    kinds: Callable[[int], Tuple[str, ...]]
    activations: Callable[[int], Tuple[str, ...]]
    resync: int = 0
    keeping: Optional[Keeping] = None
