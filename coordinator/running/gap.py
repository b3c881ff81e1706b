"""Repeats the steps before a failure whose tensors were not collected, and finds what failed first among them.

In a long run whole tensors are compared at some steps only (`cases.collection`). What fails at one of them, or in the losses
between, may have begun at a step that nothing was collected of. The run is deterministic: its steps up to the failure are
run again in fresh workers, with whole tensors from the last whole step on, and judged as the run itself judges.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Optional, Tuple

from stepalign.coordinator.cases.collection import Collection
from stepalign.coordinator.comparison.comparison import Comparison, StepJudgement
from stepalign.coordinator.running.noise import beyond_noise, measure_noise, steps_ahead, weigh
from stepalign.coordinator.running.recorder import Record, Recorder
from stepalign.coordinator.running.run_state import Run, Watcher
from stepalign.coordinator.running.step_judge import begin_judge
from stepalign.coordinator.sessions.members import both
from stepalign.coordinator.sessions.session import Session
from stepalign.coordinator.sessions.step_plan import StepPair
from stepalign.protocol.errors import StepalignError


def first_in_gap(run: Run, failure: Comparison, watcher: Watcher) -> Comparison:
    """Return the first failure that rounding does not explain: ``failure``, or one of the steps before it that were not
    whole. The run's record gets the whole tensors of the step that it is of, and of the one before.
    """
    collection = run.collection
    gap = collection.gap_before(failure.step) if collection is not None else range(0)
    if not gap or collection is None or run.crew is None or run.batches is None or run.plan is None:
        return failure
    missing = _not_recorded(run, collection, gap)
    if missing is not None:
        run.warnings.append(
            f"the recorded side keeps no whole tensors of step {missing}: what failed at step {failure.step} may have begun "
            f"at one of the steps {gap.start} to {failure.step}"
        )
        return failure
    filled = collection.with_whole(gap)
    watcher.phase(f"repeating steps {gap.start} to {failure.step} with whole tensors")
    try:
        repeated = _Repeated(run, filled, gap, watcher, failure.step)
        if repeated.unlike is not None:
            run.warnings.append(
                f"step {repeated.unlike}, repeated for the diagnosis, did not give the recorded losses: what failed at step "
                f"{failure.step} may have begun earlier"
            )
            return failure
        earlier = _unexplained(run, repeated.record, filled, failure.step, watcher)
    except StepalignError as error:
        if error.exit_code == 130:
            raise
        run.warnings.append(f"the steps before step {failure.step} could not be repeated with whole tensors: {error}")
        return failure
    run.compared["repeated steps"] = f"{gap.start} to {failure.step}, with whole tensors, as step {failure.step} failed"
    found = earlier or failure
    repeated.hand_over(found)
    return found


def _not_recorded(run: Run, collection: Collection, gap: range) -> Optional[int]:
    """Return the first step of the gap that a recorded side has no tensors of; None if it has all, or both sides are
    live.
    """
    if run.case.against is None:
        return None
    wanted = set(collection.wanted)
    return next((step for step in gap if not wanted <= set(run.case.against.kinds(step))), None)


class _Repeated:
    """The steps as they came out the second time. ``unlike`` is the first whose losses are not those of the run."""

    def __init__(self, run: Run, filled: Collection, gap: range, watcher: Watcher, last: int) -> None:
        assert run.crew is not None and run.batches is not None and run.plan is not None
        self._run = run
        self._gap = gap
        self._judgements: Dict[int, StepJudgement] = {}
        self.unlike: Optional[int] = None
        case, asked = run.case, run.plan.kinds

        def kinds(step: int) -> Tuple[str, ...]:
            return (*filled.kinds(step), *(kind for kind in asked(step) if kind == "activation"))

        with Session(case, both(case, run.crew, run.folder), "train", watcher.tick) as session:
            session.start()
            session.build()
            judge = begin_judge(case, session, session.exchange_weights())
            self._recorder = Recorder(judge, None, case.file.compare.resync, self._note)
            plan = replace(run.plan, first=0, last=last + 1, kinds=kinds, keeping=None)
            session.step(plan, run.batches, self._take)

    @property
    def record(self) -> Record:
        return self._recorder.record

    def hand_over(self, found: Comparison) -> None:
        """Give the run what its diagnosis and its views need of the repeated steps."""
        record = self._run.record
        record.pairs.update({step: pair for step, pair in self.record.pairs.items() if step >= self._gap.start - 1})
        record.pairs = dict(sorted(record.pairs.items()))
        for step, judgement in self._judgements.items():
            if step in self._gap:
                record.map.note(judgement)
        self._run.first_failed = self._judgements.get(found.step)

    def _take(self, pair: StepPair) -> None:
        losses = self._run.record.losses
        if self.unlike is None and any(
            side.loss.tobytes() != losses[number][pair.step].tobytes()
            for number, side in enumerate((pair.reference, pair.candidate))
        ):
            self.unlike = pair.step
        self._recorder.take(pair)

    def _note(self, pair: StepPair, judgement: StepJudgement) -> None:
        if pair.step in self._gap or pair.step >= self._gap.stop:
            self._judgements[pair.step] = judgement


def _unexplained(run: Run, record: Record, filled: Collection, last: int, watcher: Watcher) -> Optional[Comparison]:
    """Return the first failure of the repeated steps that rounding does not explain."""
    first = record.first_failure()
    if first is None or beyond_noise(first):
        return first
    assert run.crew is not None and run.session is not None and run.batches is not None
    watcher.phase("measuring rounding noise of the repeated steps: torch against itself")
    stop = min(last + steps_ahead(last), run.case.steps - 1) + 1
    filled = filled.with_whole(range(filled.also.start, stop))
    run.noise = measure_noise(run.case, run.crew, run.folder, run.session.names, stop, run.batches, watcher.tick, filled)
    return weigh(record.failures.comparisons(), run.noise)[0]
