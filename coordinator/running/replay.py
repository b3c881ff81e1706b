"""Repeats a run up to a step in fresh workers, with every module's output of that step.

A replay starts from the run's initial weights and repeats its steps with the same batches, so it reaches the same state.
What a run folder needs for that is `case.json` (`case_record`). A replay says whether it met the recorded losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Tuple

from stepalign.coordinator.cases.batches import BatchSource
from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.sessions.members import Crew, both
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.coordinator.sessions.session import Session
from stepalign.coordinator.sessions.step_plan import StepPair, StepPlan


@dataclass(frozen=True)
class Replayed:
    """The steps asked for, (torch, paddle) losses of every step from the first on, and which tensors are which."""

    pairs: List[StepPair]
    losses: List[Tuple[float, float]]
    names: NameMap


def replay_steps(
    case: Case,
    crew: Crew,
    folder: Path,
    steps: Sequence[int],
    patterns: Tuple[str, ...],
    batches: BatchSource,
    on_tick: Callable[[], None],
    repeated: Optional[List[StepPair]] = None,
) -> Replayed:
    """Run the case again up to the last of ``steps``; keep those, with the outputs of the modules that fit ``patterns``.

    Where the only step is the first, ``repeated`` gets a second run of it from the same weights.
    """
    found: List[StepPair] = []
    losses: List[Tuple[float, float]] = []

    def take(pair: StepPair) -> None:
        losses.append((float(pair.reference.loss), float(pair.candidate.loss)))
        if pair.step in steps:
            found.append(pair)

    with Session(case, both(case, crew, folder), "train", on_tick) as session:
        session.start()
        session.build()
        session.exchange_weights()
        initial = {role: session.read_weights(role) for role in session.switchboard.roles} if repeated is not None else {}
        plan = StepPlan(
            0,
            max(steps) + 1,
            lambda number: (*(("activation",) if number in steps else ()), *for_resync(case, number)),
            lambda number: patterns if number in steps else (),
            case.file.compare.resync,
        )
        session.step(plan, batches, take)
        if repeated is not None and tuple(steps) == (0,) and case.file.compare.dropout == "own":
            session.load_weights(initial)
            session.step(StepPlan(0, 1, lambda number: (), lambda number: ()), batches, repeated.append)
        return Replayed(found, losses, session.names)


def for_resync(case: Case, step: int) -> Tuple[str, ...]:
    """Return what a step must collect so that the candidate can continue from the reference's state."""
    resync = case.file.compare.resync
    return ("parameter", "optimizer_state", "buffer") if resync and (step + 1) % resync == 0 else ()
