"""What becomes of a finished run: failures, noise, places and declared differences, as made-up runs have them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import pytest

from stepalign.coordinator.cases.case import Case, CaseFile, CompareSection, DataSection, SideSection
from stepalign.coordinator.comparison.comparison import AS_USED, Comparison, StepJudgement
from stepalign.coordinator.comparison.measures import Measures
from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.diagnosis.loss.loss_formula import LossSite
from stepalign.coordinator.processes.switchboard import Interrupted
from stepalign.coordinator.results.result import KnownDifference, Verdict
from stepalign.coordinator.running import judgement
from stepalign.coordinator.running.first_difference import Located
from stepalign.coordinator.running.judgement import judge_run, judge_what_came
from stepalign.coordinator.running.noise import Noise
from stepalign.coordinator.running.run_state import Run, Watcher
from stepalign.coordinator.running.schedule import ScheduleOutcome
from stepalign.coordinator.running.verdict import result_of
from stepalign.protocol.errors import StepalignError, WorkerFailure
from stepalign.protocol.specs import Declaration, OptimizerSpec

CASE = Case(Path("."), CaseFile(SideSection("t.py"), SideSection("p.py"), DataSection("data.npz"), steps=50))
NOTHING: Any = None


def failed(
    step: int, kind: str = "loss", name: str = "loss", apart: float = 1e-3, exact: bool = False, reason: str = "differs"
) -> Comparison:
    measures = Measures(1, max_abs=apart, reference=1.0, candidate=1.0 + apart, outside=1)
    return Comparison(step, kind, name, name, False, 1e-5, 0.0, measures, reason, exact)


def finding(code: str, confidence: float = 0.9, matters: bool = True, kind: str = "parameter") -> Finding:
    return Finding(Cause(Category.OPTIMIZER, code, confidence, f"{code} differs", "mend it"), kind, "fc", "dense", matters)


@dataclass
class Stage:
    """A run, and what stands in the place of all that would start workers."""

    run: Run
    located: Optional[Located] = None
    noise: Any = field(default_factory=Noise)
    in_gap: Optional[Comparison] = None
    beyond: Optional[Comparison] = None
    phases: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    explained: list[tuple[Any, Comparison, Optional[Located]]] = field(default_factory=list)
    control_steps: list[int] = field(default_factory=list)

    def locate(self, *given: Any) -> Optional[Located]:
        self.asked.append("locate")
        if isinstance(self.located, BaseException):
            raise self.located
        return self.located

    def measure_noise(self, *given: Any) -> Noise:
        self.asked.append("noise")
        self.control_steps.append(given[4])
        if isinstance(self.noise, BaseException):
            raise self.noise
        noise: Noise = self.noise
        return noise

    def first_in_gap(self, run: Run, failure: Comparison, watcher: Watcher) -> Comparison:
        self.asked.append("gap")
        return self.in_gap or failure

    def fetch_lost_steps(self, *given: Any) -> None:
        self.asked.append("lost steps")

    def first_beyond_clipping(self, *given: Any) -> Optional[Comparison]:
        self.asked.append("clipping")
        return self.beyond

    def explain(self, evidence: Any, failure: Comparison, located: Optional[Located]) -> list[Cause]:
        self.explained.append((evidence, failure, located))
        return [Cause(Category.OPTIMIZER, "found", 0.5, "evidence", "fix")]

    def judge(self) -> Verdict:
        judge_run(self.run, Watcher(phase=self.phases.append))
        return result_of(self.run).verdict

    @property
    def place(self) -> tuple[int, str, Optional[str], str]:
        divergence = self.run.divergence
        assert divergence is not None
        return divergence.step, divergence.kind, divergence.torch_name, divergence.reason


def side(clip: Any = None, after_backward: bool = False) -> Declaration:
    return Declaration((), (), OptimizerSpec("AdamW", "AdamW", (), clip=clip), None, None, after_backward)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    run = Run(CASE, Path("."))
    run.crew = NOTHING or SimpleNamespace(placement=SimpleNamespace(devices={}))  # type: ignore[assignment]
    run.session = SimpleNamespace(names="names")  # type: ignore[assignment]
    run.batches = []  # type: ignore[assignment]
    run.declarations = {"torch": side(), "paddle": side()}
    found = Stage(run)
    for name in ("locate", "measure_noise", "first_in_gap", "fetch_lost_steps", "first_beyond_clipping", "explain"):
        monkeypatch.setattr(judgement, name, getattr(found, name))
    return found


def fail(stage: Stage, *items: Comparison) -> None:
    for step in sorted({item.step for item in items}):
        stage.run.record.failures.take(StepJudgement(step, tuple(item for item in items if item.step == step)))


def control(apart: float, until: int = 50) -> Noise:
    noise = Noise()
    for step in range(until):
        noise.note("loss", "loss", step, np.array(1.0), np.array(1.0 + apart))
    return noise


def test_a_step_that_cannot_be_run_again_is_a_warning_and_an_interruption_ends_the_search(stage: Stage) -> None:
    """It was passed over in silence: a loss that only paddle's clipped softmax moves is then a divergence for no stated reason."""
    fail(stage, failed(3, apart=1.0, exact=True))
    stage.located = WorkerFailure("the disk is full")  # type: ignore[assignment]
    assert stage.judge() is Verdict.DIVERGED
    assert stage.explained[0][2] is None
    (warning,) = stage.run.warnings
    assert warning.startswith("step 3 could not be run again") and warning.endswith("the disk is full")
    stage.located = Interrupted("stopped")  # type: ignore[assignment]
    with pytest.raises(Interrupted):
        stage.judge()


def test_a_run_in_which_nothing_failed_is_aligned_and_starts_no_further_worker(stage: Stage) -> None:
    assert stage.judge() is Verdict.ALIGNED
    assert (stage.asked, stage.explained, stage.run.warnings) == ([], [], [])


def test_declared_differences_that_matter_are_a_divergence_though_every_step_passed(stage: Stage) -> None:
    stage.run.findings = [finding("dropout", 0.99, matters=False), finding("eps", 0.7), finding("beta1", 0.9)]
    stage.run.inconclusive = True
    assert stage.judge() is Verdict.DIVERGED
    assert stage.place == (0, "parameter", "fc", "eps differs")
    assert [cause.code for cause in stage.run.causes] == ["beta1", "eps"]
    assert not stage.run.inconclusive


def test_a_declared_difference_that_does_not_matter_leaves_a_run_aligned(stage: Stage) -> None:
    stage.run.findings = [finding("dropout", matters=False)]
    assert stage.judge() is Verdict.ALIGNED


def test_a_schedule_that_differs_is_a_divergence_behind_what_is_declared(stage: Stage) -> None:
    item = Comparison(3, "lr", "group 0", "group 0", False, reason="differs")
    stage.run.schedule = ScheduleOutcome(([[1.0]] * 5, [[1.0], [1.0], [1.0], [2.0], [2.0]]), [item], {})
    stage.run.inconclusive = True
    assert stage.judge() is Verdict.DIVERGED
    assert stage.place == (3, "lr", "group 0", "differs") and not stage.run.inconclusive
    assert {cause.category for cause in stage.run.causes} <= {Category.SCHEDULE}
    stage.run.findings = [finding("eps")]
    stage.judge()
    assert stage.place[3] == "eps differs"


def test_a_schedule_that_agrees_changes_nothing(stage: Stage) -> None:
    stage.run.schedule = ScheduleOutcome(([[1.0]], [[1.0]]), [], {})
    assert stage.judge() is Verdict.ALIGNED


def test_what_failed_is_named_and_explained_before_what_is_declared(stage: Stage) -> None:
    stage.run.findings = [finding("eps")]
    fail(stage, failed(2, "parameter", "fc.weight", exact=True))
    assert stage.judge() is Verdict.DIVERGED
    assert stage.place == (2, "parameter", "fc.weight", "differs")
    assert [cause.code for cause in stage.run.causes] == ["found"]
    ((evidence, item, located),) = stage.explained
    assert (evidence.names, evidence.findings, item.step, located) == ("names", stage.run.findings, 2, None)
    assert (evidence.torch, evidence.paddle) == (stage.run.declarations["torch"], stage.run.declarations["paddle"])
    assert stage.asked == ["lost steps", "gap"]


def test_what_failed_between_whole_steps_takes_the_failures_place(stage: Stage) -> None:
    stage.in_gap = failed(7, "gradient", "fc.bias")
    fail(stage, failed(20, "parameter", "fc.weight", exact=True))
    stage.judge()
    assert stage.place == (7, "gradient", "fc.bias", "differs")
    assert stage.phases == ["replaying step 7 to find the module"]


@pytest.mark.parametrize(
    ("kind", "reason", "asks"),
    [("loss", "differs", True), ("gradient", "differs", True), ("gradient", f"{AS_USED}: differs", False), ("buffer", "", False)],
)
def test_a_module_is_looked_for_where_the_forward_or_backward_pass_failed(
    stage: Stage, kind: str, reason: str, asks: bool
) -> None:
    fail(stage, failed(2, kind, exact=True, reason=reason))
    stage.judge()
    assert ("locate" in stage.asked) == asks


@pytest.mark.parametrize("lacking", ["session", "batches", "crew"])
def test_no_module_is_looked_for_where_no_worker_can_be_started(stage: Stage, lacking: str) -> None:
    fail(stage, failed(2))
    run = stage.run
    setattr(run, lacking, None)
    if lacking == "session":
        with pytest.raises(AssertionError):
            stage.judge()
    else:
        stage.judge()
    assert not {"locate", "noise"} & set(stage.asked)


def test_the_output_that_differs_first_takes_the_failures_place(stage: Stage) -> None:
    item = failed(2, "activation", "fc")
    stage.located = Located(item, "fc", "fc")
    fail(stage, failed(2, exact=True))
    stage.judge()
    assert stage.place == (2, "activation", "fc", "differs") and stage.run.located == stage.located
    assert stage.explained[0][1:] == (failed(2, exact=True), stage.located)


def test_a_gradient_that_goes_wrong_on_its_way_back_stays_the_first_divergence_and_says_where(stage: Stage) -> None:
    stage.located = Located(failed(2, "gradient", "fc@grad"), "fc", "fc", backward=True)
    fail(stage, failed(2, "gradient", "fc.weight", exact=True))
    stage.judge()
    assert stage.place[:3] == (2, "gradient", "fc.weight")
    assert stage.place[3] == f"differs; {stage.located.way_back}"


def updated(path: str, backward: bool = False) -> Located:
    return Located(failed(2, "activation", "gen"), "gen", "gen", updated=path, backward=backward)


def test_what_an_update_in_the_step_worked_on_comes_before_a_module_that_was_called_after_it(stage: Stage) -> None:
    stage.located = updated("gen")
    passing = replace(failed(2, "gradient", "gen.fc.bias"), passed=True)
    other, wrong = failed(2, "gradient", "generous.fc.weight"), failed(2, "optimizer_state", "gen.fc.weight/moment1")
    buffer = failed(2, "buffer", "gen.bn.running_mean")
    stage.run.first_failed = StepJudgement(2, (failed(2), passing, other, buffer, wrong))
    fail(stage, failed(2, exact=True))
    stage.judge()
    assert stage.place[:3] == (2, "optimizer_state", "gen.fc.weight/moment1")
    assert stage.run.located == replace(stage.located, first=None)
    assert stage.explained[0][1:] == (wrong, stage.run.located)


def test_after_an_update_the_way_back_stays_with_what_the_update_worked_on(stage: Stage) -> None:
    stage.located = updated("", backward=True)
    wrong = failed(2, "gradient", "gen.fc.weight")
    fail(stage, failed(2, exact=True), wrong)
    stage.judge()
    assert stage.place[:3] == (2, "gradient", "gen.fc.weight") and stage.run.located == stage.located


@pytest.mark.parametrize("judged", [StepJudgement(1, (failed(1, "gradient", "gen.fc.weight"),)), StepJudgement(2, (failed(2),))])
def test_a_module_after_an_update_is_named_where_nothing_that_was_updated_failed_in_its_step(
    stage: Stage, judged: StepJudgement
) -> None:
    stage.located = updated("gen")
    stage.run.first_failed = judged
    fail(stage, failed(2, exact=True))
    stage.judge()
    assert stage.place[:3] == (2, "activation", "gen")


def test_a_difference_that_rounding_makes_alone_leaves_a_run_aligned_with_a_word_on_it(stage: Stage) -> None:
    stage.noise = control(1e-3)
    fail(stage, failed(20), failed(30))
    assert stage.judge() is Verdict.ALIGNED
    assert stage.control_steps == [35]  # 30, and the 4 later ones whose noise may show by then
    assert stage.run.noise is stage.noise and stage.asked == ["noise", "lost steps"]
    assert len(stage.run.warnings) == 1 and "at step 20 loss loss differs by 0.001" in stage.run.warnings[0]


def test_the_control_ends_with_the_run(stage: Stage) -> None:
    fail(stage, failed(48))
    stage.judge()
    assert stage.control_steps == [50]


def test_noise_that_hides_any_mistake_makes_a_run_inconclusive(stage: Stage) -> None:
    stage.noise = control(0.5)
    fail(stage, failed(20))
    assert stage.judge() is Verdict.INCONCLUSIVE
    stage.run.findings = [finding("eps")]
    assert stage.judge() is Verdict.DIVERGED


def test_the_first_failure_that_noise_does_not_explain_is_the_divergence(stage: Stage) -> None:
    stage.noise = control(1e-4)
    fail(stage, failed(20, apart=1e-3), failed(30, apart=1e-2))
    assert stage.judge() is Verdict.DIVERGED
    assert stage.place[0] == 30 and not stage.run.warnings


def test_no_control_is_run_where_rounding_is_ruled_out(stage: Stage) -> None:
    fail(stage, failed(0, apart=0.1))
    assert stage.judge() is Verdict.DIVERGED
    assert "noise" not in stage.asked


def test_where_noise_cannot_be_measured_the_tolerances_stand_and_an_interruption_goes_on(stage: Stage) -> None:
    stage.noise = WorkerFailure("the control died")
    fail(stage, failed(20))
    assert stage.judge() is Verdict.DIVERGED
    assert "so the tolerances stand alone: the control died" in stage.run.warnings[0] and stage.place[0] == 20
    stage.noise = Interrupted("stopped")
    assert isinstance(stage.noise, StepalignError)
    with pytest.raises(Interrupted):
        stage.judge()


LOGITS = {"<model>": np.array([[0.0, 100.0, -50.0], [3.0, 1.0, 0.0]], np.float32)}
LABELS = {"y": np.array([0, 0])}
CLIPPED = tuple(np.array((greatest + 0.169846) / 2, np.float32) for greatest in (100.0, 64.0))


def at_loss(losses: Any) -> Located:
    return Located(None, loss_site=LossSite(LOGITS, LOGITS, LABELS, losses))


def test_a_loss_that_paddle_clips_is_a_known_difference_unless_the_case_is_strict(stage: Stage) -> None:
    stage.located = at_loss(CLIPPED)
    fail(stage, failed(2, exact=True))
    assert stage.judge() is Verdict.ALIGNED
    assert [known.code for known in stage.run.record.known.values()] == ["softmax_clipping"]
    assert stage.explained == [] and stage.run.warnings == []
    stage.run.case = replace(CASE, file=replace(CASE.file, compare=CompareSection(strict=True)))
    assert stage.judge() is Verdict.DIVERGED


def test_what_fails_beside_a_clipped_loss_makes_a_run_inconclusive(stage: Stage) -> None:
    stage.located, stage.beyond = at_loss(CLIPPED), failed(3, "parameter", "fc.weight")
    fail(stage, failed(2, exact=True))
    first = KnownDifference("softmax_clipping", "loss", "found earlier")
    stage.run.record.known[("softmax_clipping", "loss")] = first
    assert stage.judge() is Verdict.INCONCLUSIVE
    assert "parameter fc.weight at step 3" in stage.run.warnings[0]
    assert list(stage.run.record.known.values()) == [first]


def test_a_loss_of_another_formula_is_a_divergence(stage: Stage) -> None:
    stage.located = at_loss((CLIPPED[0], np.array(7.0, np.float32)))
    fail(stage, failed(2, exact=True))
    assert stage.judge() is Verdict.DIVERGED and "clipping" not in stage.asked
    assert stage.place[:3] == (2, "loss", "loss")


def recording(of: str, *kinds: str) -> Any:
    return SimpleNamespace(side=of, kinds=lambda step: kinds, made="today")


def test_a_recorded_side_without_outputs_of_the_step_is_named(stage: Stage) -> None:
    fail(stage, failed(2, exact=True))
    stage.run.case = replace(CASE, against=recording("torch", "activation", "gradient"))
    stage.judge()
    assert stage.run.warnings == []
    stage.run.case = replace(CASE, against=recording("torch", "gradient"))
    stage.judge()
    assert "the recorded torch side keeps no outputs of modules at step 2" in stage.run.warnings[0]


BY_NORM = {"type": "clip_by_global_norm"}


def warned(stage: Stage, torch: Declaration, paddle: Declaration) -> list[str]:
    stage.run.declarations = {"torch": torch, "paddle": paddle}
    stage.run.record.counts["gradient"] = 4
    stage.run.warnings = []
    stage.judge()
    return stage.run.warnings


def test_clipping_that_no_gradient_reached_is_told_with_the_sides_that_declare_it(stage: Stage) -> None:
    (text,) = warned(stage, side(after_backward=True), side(BY_NORM))
    assert "(torch: after_backward, paddle: clips by clip by global norm)" in text
    (text,) = warned(stage, side(), side({"limit": 1.0}))
    assert "(paddle: clips by a rule of its own)" in text
    assert warned(stage, side(), side()) == []


def test_clipping_that_acted_or_whose_gradients_were_not_collected_is_not_told(stage: Stage) -> None:
    stage.run.record.clipped = True
    assert warned(stage, side(BY_NORM), side(BY_NORM)) == []
    stage.run.record.clipped = False
    assert warned(stage, side(BY_NORM), side(BY_NORM)) != []
    stage.run.record.counts["gradient"] = 0
    stage.run.warnings = []
    stage.judge()
    assert stage.run.warnings == []


def test_what_a_script_with_its_own_loop_or_a_recording_does_after_backward_is_not_declared(stage: Stage) -> None:
    both = side(after_backward=True), side(after_backward=True)
    stage.run.case = replace(CASE, file=replace(CASE.file, torch=SideSection(command="python t.py")))
    assert "(paddle: after_backward)" in warned(stage, *both)[0]
    stage.run.case = replace(CASE, against=recording("paddle"))
    assert "(torch: after_backward)" in warned(stage, *both)[0]


def test_of_a_run_that_broke_off_it_is_said_where_its_finished_steps_stand(stage: Stage) -> None:
    judge_what_came(stage.run)
    assert stage.run.warnings == []
    for step in range(3):
        for losses in stage.run.record.losses:
            losses.append(np.array(0.5 + step))
    judge_what_came(stage.run)
    assert stage.run.warnings == ["the 3 steps finished before the failure are aligned"] and stage.run.causes == []
    fail(stage, failed(2, "parameter", "fc.weight"))
    judge_what_came(stage.run)
    assert "at step 2, the sides had diverged: parameter fc.weight: differs" in stage.run.warnings[1]
    assert stage.explained[0][1:] == (failed(2, "parameter", "fc.weight"), None)
    assert stage.asked == [] and [cause.code for cause in stage.run.causes] == ["found"]
