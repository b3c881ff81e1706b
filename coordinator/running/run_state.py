"""What is known of a run while it goes on, and who is told of its progress."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional

from stepalign.coordinator.sessions.meeting import Meeting

if TYPE_CHECKING:  # what starts the workers imports this module: nothing more than that needs
    from stepalign.coordinator.cases.batches import BatchSource
    from stepalign.coordinator.cases.case import Case
    from stepalign.coordinator.cases.collection import Collection
    from stepalign.coordinator.comparison.comparison import Comparison, StepJudgement
    from stepalign.coordinator.diagnosis.cause import Cause, Finding
    from stepalign.coordinator.results.result import FirstDivergence, Resumed
    from stepalign.coordinator.running.checkpoints import Kept
    from stepalign.coordinator.running.first_difference import Located
    from stepalign.coordinator.running.noise import Noise
    from stepalign.coordinator.running.recorder import Record
    from stepalign.coordinator.running.schedule import ScheduleOutcome
    from stepalign.coordinator.sessions.members import Crew
    from stepalign.coordinator.sessions.session import Session
    from stepalign.coordinator.sessions.step_plan import StepPair, StepPlan
    from stepalign.protocol.messages import Named, WorkerFacts
    from stepalign.protocol.specs import Declaration
    from stepalign.protocol.status import Status


@dataclass(frozen=True)
class Watcher:
    """Who is told of a run's progress: phases, finished steps, and a tick ten times a second, which may raise to stop.

    ``workers`` is given what tells where each worker stands, ``worst`` the greatest differences by kind, a map that
    grows; both may be asked from any thread while the run goes on. ``own_process``: nothing else runs in this process, whose
    heap the run may set up as it likes.
    """

    phase: Callable[[str], None] = lambda text: None
    step: Callable[[StepPair, StepJudgement], None] = lambda pair, judgement: None
    tick: Callable[[], None] = lambda: None
    folder: Callable[[Path], None] = lambda path: None
    workers: Callable[[Callable[[], Dict[str, Status]]], None] = lambda states: None
    worst: Callable[[Dict[str, Comparison]], None] = lambda worst: None
    notice: Callable[[str], None] = lambda text: None
    own_process: bool = False

    def meeting(self, folder: Path) -> Meeting:
        """Return where a run of ``folder`` meets its other machines."""
        return Meeting(folder, self.notice, self.tick)


@dataclass(frozen=True)
class Origin:
    """Where a run begins: afresh, or in the folder of an interrupted one.

    ``recorded`` is how many steps steps.jsonl has; ``kept`` is the state to continue from, None for step 0; ``sides`` is
    what both sides were.
    """

    recorded: int = 0
    kept: Optional[Kept] = None
    sides: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Run:
    """What is known of a run so far; a failure leaves it as it stands.

    ``lost_steps`` are those whose whole tensors an interrupted run had, and this one has not yet. ``first_failed`` is the
    judgement of the step that failed first, where that was found only when steps were repeated (`gap`).
    """

    case: Case
    folder: Path
    origin: Origin = Origin()
    plan: Optional[StepPlan] = None
    collection: Optional[Collection] = None
    lost_steps: List[int] = field(default_factory=list)
    resumed: Optional[Resumed] = None
    crew: Optional[Crew] = None
    batches: Optional[BatchSource] = None
    facts: Dict[str, WorkerFacts] = field(default_factory=dict)
    declarations: Dict[str, Declaration] = field(default_factory=dict)
    session: Optional[Session] = None
    initial: Dict[str, Named] = field(default_factory=dict)
    findings: List[Finding] = field(default_factory=list)
    causes: List[Cause] = field(default_factory=list)
    warnings: List[str] = field(default_factory=list)
    compared: Dict[str, str] = field(default_factory=dict)
    schedule: Optional[ScheduleOutcome] = None
    divergence: Optional[FirstDivergence] = None
    located: Optional[Located] = None
    noise: Optional[Noise] = None
    first_failed: Optional[StepJudgement] = None
    inconclusive: bool = False
    error: Optional[BaseException] = None

    @functools.cached_property
    def record(self) -> Record:
        """What the steps gave; empty before there are any."""
        from stepalign.coordinator.running.recorder import Record

        return Record()
