"""Repeats a run up to a step in fresh workers, with every module's output of that step.

A replay starts from the run's initial weights and repeats its steps with the same batches, so it reaches the same state.
What a run folder needs for that is `case.json` (`case_record`). A replay says whether it met the recorded losses.

The first step may be repeated in the same processes, to see whether anything random is in it. A script that owns its loop
carries more than its weights into the next step: an optimizer's state, a rate, a counter. What differs there counts only as
far as the step comes out the same once the random numbers are put back too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Tuple

from stepalign.coordinator.cases.batches import BatchSource
from stepalign.coordinator.cases.case import SIDES, Case
from stepalign.coordinator.processes.switchboard import Interrupted
from stepalign.coordinator.sessions.members import Crew, both
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.coordinator.sessions.session import Session
from stepalign.coordinator.sessions.step_plan import StepPair, StepPlan
from stepalign.protocol import messages
from stepalign.protocol.errors import StepalignError


@dataclass(frozen=True)
class Repetitions:
    """The first step again, in the same processes and from the same weights, while the random numbers run on.

    ``exact`` is the same with the random numbers put back; None where no side owns its loop. Both have every module's output
    then.
    """

    free: StepPair
    exact: Optional[StepPair] = None


@dataclass(frozen=True)
class Replayed:
    """The steps asked for, (torch, paddle) losses of every step from the first on, and which tensors are which."""

    pairs: List[StepPair]
    losses: List[Tuple[float, float]]
    names: NameMap
    repetitions: Optional[Repetitions] = None


def replay_steps(
    case: Case,
    crew: Crew,
    folder: Path,
    steps: Sequence[int],
    patterns: Tuple[str, ...],
    batches: BatchSource,
    on_tick: Callable[[], None],
    repeat: bool = False,
) -> Replayed:
    """Run the case again up to the last of ``steps``; keep those, with the outputs of the modules that fit ``patterns``.

    With ``repeat``, where the only step is the first and each side draws its own random numbers, that step is repeated.
    """
    found: List[StepPair] = []
    losses: List[Tuple[float, float]] = []
    repeat = repeat and tuple(steps) == (0,) and case.file.compare.dropout == "own"

    def take(pair: StepPair) -> None:
        losses.append((float(pair.reference.loss), float(pair.candidate.loss)))
        if pair.step in steps:
            found.append(pair)

    replayed: Optional[Replayed] = None
    try:
        with Session(case, both(case, crew, folder), "train", on_tick) as session:
            session.start()
            session.build()
            session.exchange_weights()
            repeating = _Repeating(session, case) if repeat else None
            plan = StepPlan(
                0,
                max(steps) + 1,
                lambda number: (*(("activation",) if number in steps else ()), *for_resync(case, number)),
                lambda number: patterns if number in steps else (),
                case.file.compare.resync,
            )
            session.step(plan, batches, take)
            replayed = Replayed(found, losses, session.names)
            if repeating is not None:
                replayed = replace(replayed, repetitions=repeating.run(patterns, batches))
    except Interrupted:
        raise
    except StepalignError:
        if replayed is None:
            raise
    return replayed


def owning_sides(case: Case) -> List[str]:
    """Return the sides whose scripts own their loop, and run."""
    return [side for side in SIDES if case.side(side).command and (case.against is None or case.against.side != side)]


class _Repeating:
    """Repeats a session's first step; made before that step."""

    def __init__(self, session: Session, case: Case) -> None:
        self._session = session
        self._weights = {role: session.read_weights(role) for role in session.switchboard.roles}
        owning = owning_sides(case)
        self._random = {
            role: messages.LoadCheckpoint({}, taken.plain)
            for role, taken in (session.take_checkpoints(owning) if owning else {}).items()
        }

    def run(self, patterns: Tuple[str, ...], batches: BatchSource) -> Repetitions:
        """Repeat the step: with the random numbers put back, where a side owns its loop, and without."""
        exact = None
        if self._random and not self._session.load_checkpoint(self._random):
            exact = self._once(patterns, batches)
        return Repetitions(self._once(patterns if exact is not None else (), batches), exact)

    def _once(self, patterns: Tuple[str, ...], batches: BatchSource) -> StepPair:
        self._session.load_weights(self._weights)
        kinds = ("activation",) if patterns else ()
        pairs: List[StepPair] = []
        self._session.step(StepPlan(0, 1, lambda number: kinds, lambda number: patterns), batches, pairs.append)
        return pairs[0]


def for_resync(case: Case, step: int) -> Tuple[str, ...]:
    """Return what a step must collect so that the candidate can continue from the reference's state."""
    resync = case.file.compare.resync
    return ("parameter", "optimizer_state", "buffer") if resync and (step + 1) % resync == 0 else ()
