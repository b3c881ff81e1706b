"""How the steps before a failure are repeated with whole tensors: made-up steps in the workers' place, judged as a run's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import pytest

from stepalign.coordinator.cases.case import Case, CaseFile, CompareSection, DataSection, SideSection, WeightsSection
from stepalign.coordinator.cases.collection import EVERY, Collection
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.comparison.judge import StepJudge
from stepalign.coordinator.processes.switchboard import Interrupted
from stepalign.coordinator.running import gap
from stepalign.coordinator.running.gap import first_in_gap
from stepalign.coordinator.running.noise import Noise
from stepalign.coordinator.running.recorder import Recorder
from stepalign.coordinator.running.run_state import Run, Watcher
from stepalign.coordinator.sessions.naming import match_names
from stepalign.coordinator.sessions.step_plan import Keeping, StepPair, StepPlan
from stepalign.protocol.errors import StepalignError, WorkerFailure
from stepalign.protocol.messages import StepResult

from ..comparison.judged_steps import Steps, train

STEPS = EVERY + 6
KINDS = ("gradient", "optimizer_state", "parameter", "buffer")
CASE = Case(Path("."), CaseFile(SideSection("t.py"), SideSection("p.py"), DataSection("data.npz"), steps=STEPS))
NOTHING: Any = None


def thinned(pair: StepPair, kinds: tuple[str, ...]) -> StepPair:
    """Return a step with what was asked for."""

    def thin(side: StepResult) -> StepResult:
        return replace(side, tensors={kind: named for kind, named in side.tensors.items() if kind in kinds})

    return replace(pair, reference=thin(pair.reference), candidate=thin(pair.candidate))


@dataclass
class Stage:
    """A run of made-up steps, and the sessions that would repeat them. ``noise`` gives the control's loss at a step."""

    steps: Steps
    run: Run
    plans: list[StepPlan] = field(default_factory=list)
    error: Optional[StepalignError] = None
    noise: Callable[[int], float] = lambda step: 0.0
    control: list[tuple[int, Collection]] = field(default_factory=list)

    @contextmanager
    def session(self, *given: Any) -> Iterator[Any]:
        if self.error is not None:
            raise self.error
        yield self.opened()

    def opened(self) -> Any:
        return SimpleNamespace(
            names=match_names(self.steps.torch.tensors, self.steps.paddle.tensors, WeightsSection()),
            declarations={"torch": self.steps.torch, "paddle": self.steps.paddle},
            switchboard=SimpleNamespace(give_pages_back=lambda: None),
            start=lambda: None,
            build=lambda: None,
            exchange_weights=lambda: dict(zip(("torch", "paddle"), self.steps.initial)),
            step=self.step,
        )

    def step(self, plan: StepPlan, batches: Any, take: Callable[[StepPair], None]) -> None:
        self.plans.append(plan)
        for step in range(plan.first, plan.last):
            take(thinned(self.steps.pairs[step], plan.kinds(step)))

    def measure_noise(self, *given: Any) -> Noise:
        self.control.append((given[4], given[7]))
        noise = Noise()
        for step in range(given[4]):
            noise.note("loss", "loss", step, np.array(1.0), np.array(1.0 + self.noise(step)))
        return noise

    def finish(self) -> Comparison:
        """Run the steps as planned; return the first failure that is exact, or the first."""
        assert self.run.plan is not None
        judge = self.steps.new_judge()
        judge.begin(*self.steps.initial)
        recorder = Recorder(judge, None)
        self.run.record = recorder.record
        for pair in self.steps.pairs:
            recorder.take(thinned(pair, self.run.plan.kinds(pair.step)))
        failures = list(recorder.record.failures.comparisons())
        return next((item for item in failures if item.exact), failures[0])

    def found(self, failure: Comparison) -> Comparison:
        return first_in_gap(self.run, failure, Watcher())

    def wrong(self, kind: str, step: int, name: str = "fc.weight") -> None:
        self.steps.change(step, kind, name, self.steps.of(step, kind, name) * np.float32(1.5))

    def lose(self, step: int, loss: float) -> None:
        pair = self.steps.pairs[step]
        self.steps.pairs[step] = replace(pair, candidate=replace(pair.candidate, loss=np.array(loss, np.float32)))


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    run = Run(CASE, Path("."))
    found = Stage(train("SGD", steps=STEPS), run)
    run.collection = Collection(KINDS, STEPS, 3)
    run.plan = StepPlan(0, STEPS, run.collection.kinds, lambda step: (), 7, Keeping(NOTHING, NOTHING))
    run.crew, run.batches, run.session = NOTHING or SimpleNamespace(), [], found.opened()
    monkeypatch.setattr(gap, "Session", found.session)
    monkeypatch.setattr(gap, "both", lambda *given: ())
    monkeypatch.setattr(gap, "measure_noise", found.measure_noise)
    return found


def test_the_first_of_the_steps_that_were_not_whole_to_fail_is_found_with_what_its_diagnosis_needs(stage: Stage) -> None:
    stage.wrong("gradient", 8)
    stage.wrong("gradient", EVERY)
    failure = stage.finish()
    assert failure.step == EVERY and sorted(stage.run.record.pairs) == [0, 1, 2, EVERY - 1, EVERY]
    found = stage.found(failure)
    assert (found.step, found.kind, found.name) == (8, "gradient", "fc.weight")
    pairs = stage.run.record.pairs
    assert list(pairs) == sorted(pairs) and {0, 1, 2, 7, 8, EVERY} <= set(pairs)
    assert pairs[8].candidate.tensors["gradient"] and pairs[7].reference.tensors["parameter"]
    assert stage.run.first_failed is not None and stage.run.first_failed.step == 8
    assert stage.run.first_failed.first_failure() == found
    assert stage.run.compared["repeated steps"] == "3 to 20, with whole tensors, as step 20 failed"
    assert stage.run.warnings == []


def test_the_whole_step_before_the_gap_is_kept_as_what_the_first_update_in_it_starts_from(stage: Stage) -> None:
    stage.wrong("gradient", EVERY + 1)
    stage.wrong("gradient", STEPS - 1)
    found = stage.found(stage.finish())
    assert (found.step, stage.run.compared["repeated steps"][:8]) == (EVERY + 1, "21 to 25")
    assert {EVERY, EVERY + 1} < set(stage.run.record.pairs)


def test_the_map_of_differences_has_what_the_repeated_steps_show(stage: Stage) -> None:
    stage.wrong("gradient", 8)
    stage.wrong("gradient", EVERY)
    failure = stage.finish()

    def level(step: int) -> Optional[float]:
        table = stage.run.record.map.to_plain()
        row = table["rows"].index(["gradient", "fc.weight", "fc.weight"])
        found: Optional[float] = table["levels"][row][table["steps"].index(step)]
        return found

    before = [level(step) for step in (2, EVERY)]
    assert (level(7), level(8)) == (None, None)
    stage.found(failure)
    shown = level(7), level(8)
    assert shown[0] is not None and shown[1] is not None and shown[0] < 0 < shown[1]
    assert [level(step) for step in (2, EVERY)] == before


def test_the_steps_are_repeated_as_the_run_made_them_up_to_the_failure_with_whole_tensors_in_the_gap(stage: Stage) -> None:
    assert stage.run.collection is not None and stage.run.plan is not None
    kinds = stage.run.collection.kinds
    stage.run.plan = replace(stage.run.plan, first=5, kinds=lambda step: (*kinds(step), "activation"))
    stage.wrong("gradient", EVERY)
    stage.found(stage.finish())
    (plan,) = stage.plans
    assert (plan.first, plan.last, plan.resync, plan.keeping) == (0, EVERY + 1, 7, None)
    assert [set(plan.kinds(step)) for step in (2, 3, EVERY - 1)] == [{*KINDS, "used_gradient", "activation"}] * 3
    assert set(plan.kinds(EVERY + 2)) == {"activation"}


def test_the_sides_of_repeated_steps_are_judged_as_resynchronised_where_the_runs_were(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[StepJudge] = []
    original = StepJudge.resynchronised

    def note(judge: StepJudge) -> None:
        judged.append(judge)
        original(judge)

    monkeypatch.setattr(StepJudge, "resynchronised", note)
    stage.run.case = replace(CASE, file=replace(CASE.file, compare=CompareSection(resync=7)))
    stage.wrong("parameter", EVERY)
    stage.found(stage.finish())
    assert len(judged) == 3  # after steps 6, 13 and 20


def test_a_failure_that_nothing_came_before_stays_what_it_is_and_its_step_is_the_judged_one(stage: Stage) -> None:
    stage.wrong("parameter", EVERY)
    failure = stage.finish()
    assert stage.found(failure) == failure
    assert stage.run.first_failed is not None and stage.run.first_failed.step == EVERY


def test_a_loss_that_fails_between_whole_steps_is_looked_at_with_its_own_steps_tensors(stage: Stage) -> None:
    stage.lose(9, 2.0)
    stage.wrong("gradient", 7)
    failure = stage.finish()
    assert (failure.step, failure.kind) == (9, "loss")
    stage.noise = lambda step: 1.0
    found = stage.found(failure)
    assert (found.step, found.kind) == (7, "gradient")
    assert stage.run.compared["repeated steps"] == "3 to 9, with whole tensors, as step 9 failed"


@pytest.mark.parametrize("lacking", ["collection", "crew", "batches", "plan"])
def test_nothing_is_repeated_where_it_cannot_be(stage: Stage, lacking: str) -> None:
    stage.wrong("gradient", EVERY)
    failure = stage.finish()
    setattr(stage.run, lacking, None)
    assert stage.found(failure) == failure and stage.plans == [] and stage.run.compared == {}


def test_nothing_is_repeated_before_a_step_whose_predecessor_is_whole(stage: Stage) -> None:
    stage.wrong("gradient", 2)
    failure = stage.finish()
    assert stage.found(failure) == failure and stage.plans == []


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_steps_that_do_not_repeat_on_either_side_explain_nothing(stage: Stage, side: str) -> None:
    stage.wrong("gradient", 8)
    stage.wrong("gradient", EVERY)
    failure = stage.finish()
    for step in (5, 6):
        pair = stage.steps.pairs[step]
        other = replace(getattr(pair, side), loss=np.nextafter(np.float32(1), np.float32(2)).reshape(()))
        stage.steps.pairs[step] = replace(pair, **{side: other})
    assert stage.found(failure) == failure
    assert "step 5, repeated for the diagnosis, did not give the recorded losses" in stage.run.warnings[0]
    assert stage.run.first_failed is None and "repeated steps" not in stage.run.compared
    assert 8 not in stage.run.record.pairs


def test_steps_that_cannot_be_repeated_leave_the_failure_and_an_interruption_goes_on(stage: Stage) -> None:
    stage.wrong("gradient", EVERY)
    failure = stage.finish()
    stage.error = WorkerFailure("the worker died")
    assert stage.found(failure) == failure
    assert stage.run.warnings == ["the steps before step 20 could not be repeated with whole tensors: the worker died"]
    stage.error = Interrupted("stopped")
    with pytest.raises(Interrupted):
        stage.found(failure)


@pytest.mark.parametrize(("lacks", "said"), [((), None), ((2,), None), ((EVERY,), None), ((5, 9), 5)])
def test_a_recorded_side_has_to_have_the_tensors_of_the_gap_and_no_others(
    stage: Stage, lacks: tuple[int, ...], said: Optional[int]
) -> None:
    stage.wrong("gradient", 8)
    stage.wrong("gradient", EVERY)
    failure = stage.finish()
    recording: Any = SimpleNamespace(kinds=lambda step: [] if step in lacks else ["loss", *KINDS])
    stage.run.case = replace(CASE, against=recording)
    found = stage.found(failure)
    assert found.step == (8 if said is None else EVERY)
    assert stage.run.warnings == (
        []
        if said is None
        else [
            f"the recorded side keeps no whole tensors of step {said}: what failed at step 20 may have begun at one of the "
            "steps 3 to 20"
        ]
    )


def test_what_rounding_explains_among_the_repeated_steps_is_no_divergence(stage: Stage) -> None:
    stage.lose(9, 1.0001)
    stage.wrong("parameter", EVERY)
    failure = stage.finish()
    assert (failure.step, failure.kind, failure.exact) == (EVERY, "parameter", True)
    assert stage.found(failure).step == 9
    stage.noise = lambda step: 1e-4
    assert stage.found(failure) == failure
    assert stage.run.noise is not None and stage.run.noise.at(failure) == 0.0


def test_the_control_of_the_repeated_steps_goes_as_far_beyond_them_as_noise_may_show_later(stage: Stage) -> None:
    stage.lose(EVERY, 1.0001)
    stage.wrong("parameter", EVERY)
    stage.noise = lambda step: 1e-3 if step == EVERY + 3 else 0.0
    failure = stage.finish()
    assert (failure.step, failure.kind) == (EVERY, "parameter")
    assert stage.found(failure) == failure
    ((steps, collection),) = stage.control
    assert steps == EVERY + 4 and [step for step in range(STEPS - 1) if not collection.is_whole(step)] == [EVERY + 4]


def test_that_control_ends_with_the_run(stage: Stage) -> None:
    stage.lose(STEPS - 2, 2.0)
    failure = stage.finish()
    stage.found(failure)
    assert [steps for steps, _ in stage.control] == [STEPS]
