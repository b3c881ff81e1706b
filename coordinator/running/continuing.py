"""What a run that continues an interrupted one does beside what every run does.

It checks that the sides are what they were, puts back what a checkpoint kept, and repeats the steps whose whole tensors
only the interrupted run had, where the diagnosis asks for them.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.comparison.judge import StepJudge
from stepalign.coordinator.diagnosis.cause import Finding
from stepalign.coordinator.results.result_json import finding_from, finding_json
from stepalign.coordinator.running.kept_record import pack_memory, pack_record, unpack_memory, unpack_record
from stepalign.coordinator.running.recorder import Record
from stepalign.coordinator.running.repeated_log import NotRepeatedError
from stepalign.coordinator.running.replay import for_resync, owning_sides
from stepalign.coordinator.running.run_state import Run, Watcher
from stepalign.coordinator.running.sides_record import (
    changed_sides,
    changed_weights,
    describe_sides,
    write_sides,
)
from stepalign.coordinator.sessions.members import both
from stepalign.coordinator.sessions.session import Session
from stepalign.coordinator.sessions.step_plan import StepPair, StepPlan
from stepalign.protocol import messages
from stepalign.protocol.errors import CaseError
from stepalign.protocol.messages import Named


def why_never_kept(case: Case) -> str:
    """Say why no state of a case can be kept; empty where it can."""
    owning = owning_sides(case)
    return f"the {owning[0]} side is a command that owns its loop, and so its state" if owning else ""


def check_sides(run: Run) -> None:
    """Record what both sides are; in a run that continues, raise CaseError where they are not what they were."""
    now = describe_sides(run.facts, run.initial)
    before = run.origin.sides
    if not before:
        write_sides(run.folder, now)
        return
    changed = changed_sides(before, now)
    if changed:
        raise CaseError(
            f"{run.folder} cannot be continued, as its numbers would not be those of one run: {'; '.join(changed)}. "
            "Bring that back as it was, or begin a new run"
        )
    weights = changed_weights(before, now)
    if weights:
        raise NotRepeatedError(f"the initial weights of {' and '.join(weights)} are others, from the same script and seed")


class KeptParts:
    """The coordinator's own part of a checkpoint: what the judge remembers, the record, what masks showed."""

    def __init__(self, judge: StepJudge, record: Record, masks: List[Finding]) -> None:
        self._judge = judge
        self._record = record
        self._masks = masks

    def describe(self) -> Tuple[Dict[str, Named], Dict[str, Any]]:
        """Return that part as arrays, by owner and name, and plain values."""
        judge, memory = pack_memory(self._judge.memory())
        record, plain = pack_record(self._record)
        return {"judge": judge, "record": record}, {
            "memory": memory,
            "record": plain,
            "masks": [finding_json(finding) for finding in self._masks],
        }

    def restore(self, run: Run, watcher: Watcher) -> int:
        """Put back what the run's origin kept, on both sides too; return the first step to run.

        Raises NotRepeatedError where a side cannot be brought to hold what it held.
        """
        kept = run.origin.kept
        if kept is None:
            return 0
        assert run.session is not None
        watcher.phase(f"putting back the state of step {kept.step}")
        problem = run.session.load_checkpoint(
            {side: messages.LoadCheckpoint(dict(kept.arrays[side]), text) for side, text in kept.plain["sides"].items()}
        )
        if problem:
            raise NotRepeatedError(f"not put back on {problem}")
        self._judge.remember(unpack_memory(kept.arrays["judge"], kept.plain["memory"]))
        run.lost_steps = unpack_record(self._record, kept.arrays["record"], kept.plain["record"])
        self._masks += [finding_from(item, "masks") for item in kept.plain["masks"]]
        run.findings += self._masks
        return kept.step


def missing_steps(run: Run) -> List[int]:
    """Return the steps whose whole tensors an uninterrupted run would hold, and this one does not: those that the
    interrupted run held, and the one before the first failure where that is the first step of the continuation.
    """
    missing = set(run.lost_steps)
    first, kept = run.record.failures.first, run.origin.kept
    if first is not None and kept is not None and first.step == kept.step:
        missing.add(first.step - 1)
    return sorted(missing - run.record.pairs.keys())


def fetch_lost_steps(run: Run, watcher: Watcher) -> None:
    """Repeat, in fresh workers, the steps whose whole tensors were not kept; warn where they come out otherwise."""
    lost, run.lost_steps = missing_steps(run), []
    first, kept = run.record.failures.first, run.origin.kept
    if first is not None and kept is not None and first.step == kept.step:
        lost = sorted({*lost, kept.step - 1})  # what the first failed update started from
    if not lost or run.crew is None or run.batches is None or run.plan is None:
        return
    watcher.phase(f"repeating steps 0 to {max(lost)} for their tensors")
    kinds, unlike = run.plan.kinds, []

    def take(pair: StepPair) -> None:
        losses = (pair.reference.loss, pair.candidate.loss)
        if any(losses[side].tobytes() != run.record.losses[side][pair.step].tobytes() for side in (0, 1)):
            unlike.append(pair.step)
        elif pair.step in lost and not unlike:
            run.record.pairs[pair.step] = pair

    with Session(run.case, both(run.case, run.crew, run.folder), "train", watcher.tick) as session:
        session.start()
        session.build()
        session.exchange_weights()
        plan = StepPlan(
            0,
            max(lost) + 1,
            lambda step: kinds(step) if step in lost else for_resync(run.case, step),
            lambda step: run.case.file.collect.activations if step in lost else (),
            run.case.file.compare.resync,
        )
        session.step(plan, run.batches, take)
    run.record.pairs = dict(sorted(run.record.pairs.items()))
    if unlike:
        run.warnings.append(f"step {unlike[0]}, repeated for the diagnosis, did not give the recorded losses")
