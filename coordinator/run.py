"""Runs a case from its folder to its verdict, and leaves the run folder behind, whatever happens on the way."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

from stepalign.coordinator.batches import BatchSource, batch_sizes
from stepalign.coordinator.case import Case
from stepalign.coordinator.clipped_loss import clipping_warning, first_beyond_clipping
from stepalign.coordinator.collection import plan_collection
from stepalign.coordinator.comparison.comparison import Comparison, StepJudgement
from stepalign.coordinator.comparison.judge import StepJudge, pair_groups
from stepalign.coordinator.comparison.tolerances import tolerances
from stepalign.coordinator.deliverables import write_loss_log, write_rate_log, write_result
from stepalign.coordinator.diagnosis.cause import Cause, Finding
from stepalign.coordinator.diagnosis.dropout_draws import compare_draws
from stepalign.coordinator.diagnosis.explain import Evidence, explain
from stepalign.coordinator.diagnosis.loss_formula import softmax_clipping
from stepalign.coordinator.diagnosis.preflight import compare_declarations
from stepalign.coordinator.diagnosis.ranking import rank
from stepalign.coordinator.diagnosis.relevance import settle_by_data
from stepalign.coordinator.diagnosis.tying import find_untied
from stepalign.coordinator.locate import Located, locate
from stepalign.coordinator.lockstep import StepPair, StepPlan
from stepalign.coordinator.members import Crew, both, find_crew
from stepalign.coordinator.noise import beyond_noise, describe_noise, measure_noise, weigh
from stepalign.coordinator.recorder import Record, Recorder
from stepalign.coordinator.records import STEPS_NAME, StepsLog, create_run_folder
from stepalign.coordinator.result import FirstDivergence, Result, Verdict
from stepalign.coordinator.schedule import ScheduleOutcome, at_milestones, compare_schedules, defines_schedule
from stepalign.coordinator.session import Session
from stepalign.coordinator.settings_check import compare_settings
from stepalign.coordinator.verdict import VERSION, case_facts, divergence_of, error_facts, series_of, side_facts, worst_of
from stepalign.protocol.errors import StepalignError
from stepalign.protocol.messages import Named, WorkerFacts
from stepalign.protocol.specs import Declaration


LOOKED_AT_STEPS = 100
"""How many steps' batches are looked through for what a declared difference depends on."""


@dataclass(frozen=True)
class Watcher:
    """Who is told of a run's progress: phases, finished steps, and a tick ten times a second, which may raise to stop."""

    phase: Callable[[str], None] = lambda text: None
    step: Callable[[StepPair, StepJudgement], None] = lambda pair, judgement: None
    tick: Callable[[], None] = lambda: None
    folder: Callable[[Path], None] = lambda path: None


@dataclass
class Run:
    """What is known of a run so far; a failure leaves it as it stands."""

    case: Case
    folder: Path
    crew: Optional[Crew] = None
    batches: Optional[BatchSource] = None
    record: Record = field(default_factory=Record)
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
    inconclusive: bool = False
    error: Optional[BaseException] = None


def run_case(case: Case, out: Optional[Path], watcher: Watcher) -> Tuple[Result, Path]:
    """Run a case; return its result and its run folder. Only a run folder that cannot be made raises."""
    folder = create_run_folder(case.name, now=datetime.datetime.now(), out=out)
    watcher.folder(folder)
    run = Run(case, folder)
    try:
        _drive(run, watcher)
        _compare_schedules(run, watcher)
        _judge(run, watcher)
    except (StepalignError, KeyboardInterrupt) as error:
        run.error = error
        _judge_what_came(run)
    result = result_of(run)
    write_loss_log(folder, run.record)
    _write_rates(run)
    write_result(folder, result)
    return result, folder


def _drive(run: Run, watcher: Watcher) -> None:
    case = run.case
    watcher.phase("reading the data")
    run.batches = BatchSource(case)
    run.batches[0]
    run.crew = find_crew(case)
    run.warnings += [*run.crew.placement.warnings, *run.crew.placement.notes]
    with StepsLog(run.folder / STEPS_NAME) as log, Session(case, both(case, run.crew, run.folder), "train", watcher.tick) as session:
        run.session = session
        watcher.phase("starting both workers")
        session.start()
        watcher.phase("building both sides")
        try:
            session.build()
        finally:
            run.facts, run.declarations = dict(session.facts), dict(session.declarations)
        torch, paddle = session.declarations["torch"], session.declarations["paddle"]
        run.warnings += compare_settings(session.facts["torch"], session.facts["paddle"])
        run.findings = compare_declarations(
            torch,
            paddle,
            [(piece.torch.tensor, piece.paddle.tensor) for piece in session.names.pieces],
            session.names.modules,
            case.file.mode,
            case.file.compare.dropout,
        )
        run.findings = find_untied(session.names) + settle_by_data(run.findings, (run.batches[step] for step in range(min(case.steps, LOOKED_AT_STEPS))))
        watcher.phase("exchanging initial weights")
        run.initial = session.exchange_weights()
        judge = StepJudge(
            session.names,
            torch,
            paddle,
            case.file.dtype,
            tolerances(case.file.dtype, case.file.tolerance),
            case.file.compare.strict,
            case.file.compare.allow_nonfinite,
        )
        judge.begin(run.initial["torch"], run.initial["paddle"])
        kinds, rule = plan_collection(case, torch)
        run.compared = {"tensors": rule, "rates and losses": "every step", "batches": "digest of every step's bytes"}
        recorder = Recorder(judge, log, case.file.compare.resync, watcher.step)
        run.record = recorder.record
        run.record.rate_pairs = tuple((ours, theirs) for ours, theirs, _ in pair_groups(session.names, torch, paddle))
        run.record.batch_sizes = batch_sizes(run.batches[0])
        watcher.phase(f"running {case.steps} steps")
        plan = StepPlan(0, case.steps, kinds, lambda step: case.file.collect.activations, case.file.compare.resync)
        session.step(_with_activations(plan), run.batches, _watching_masks(run, recorder.take))


def _watching_masks(run: Run, take: Callable[[StepPair], None]) -> Callable[[StepPair], None]:
    """Return ``take`` such that the shared dropout masks of each step are compared too, until they differ."""
    found: List[Finding] = []

    def watch(pair: StepPair) -> None:
        take(pair)
        if not found:
            found.extend(compare_draws(pair.reference.masks, pair.candidate.masks))
            run.findings += found

    return watch


def _with_activations(plan: StepPlan) -> StepPlan:
    if not plan.activations(0):
        return plan
    return StepPlan(plan.first, plan.last, lambda step: (*plan.kinds(step), "activation"), plan.activations, plan.resync)


def _compare_schedules(run: Run, watcher: Watcher) -> None:
    defined = defines_schedule(run.case)
    if not any(defined.values()):
        return
    if not all(defined.values()):
        alone = next(side for side, there in defined.items() if there)
        run.warnings.append(f"only the {alone} side's script defines schedule(case): schedules were not compared on their own")
        return
    assert run.crew is not None
    watcher.phase(f"comparing {run.case.file.schedule.steps} steps of both schedules")
    run.schedule = compare_schedules(run.case, run.crew, run.folder, watcher.tick)
    run.compared["schedules"] = run.schedule.describe(run.case.file.schedule.chosen_milestones())


def _judge(run: Run, watcher: Watcher) -> None:
    """Find the first divergence that noise does not explain, where it lies and why."""
    failure = _first_unexplained(run, watcher)
    if failure is not None:
        located = None
        if failure.kind in ("loss", "gradient") and run.session is not None and run.batches is not None and run.crew is not None:
            watcher.phase(f"replaying step {failure.step} to find the module")
            located = locate(run.case, run.crew, run.folder, run.session.names, failure, run.batches, watcher.tick)
        if not _clipped(run, failure, located, watcher):
            run.divergence = divergence_of(located.first if located and located.first else failure)
            run.causes = explain(_evidence(run), failure, located)
            return
    mattering = [finding for finding in run.findings if finding.matters]
    if mattering:
        first = mattering[0]
        run.divergence = FirstDivergence(0, first.kind, first.torch_name, first.paddle_name, reason=first.cause.evidence)
        run.causes = rank(finding.cause for finding in mattering)
        run.inconclusive = False
        return
    if run.schedule is not None and run.schedule.failures:
        run.divergence = divergence_of(run.schedule.failures[0])
        run.causes = run.schedule.causes()
        run.inconclusive = False


def _clipped(run: Run, failure: Comparison, located: Optional[Located], watcher: Watcher) -> bool:
    """Say whether a loss failed only by paddle's clipped softmax; note the known difference, and what it leaves open."""
    if run.case.file.compare.strict or located is None or located.loss_site is None:
        return False
    known = softmax_clipping(located.loss_site)
    if known is None:
        return False
    assert run.crew is not None and run.session is not None and run.batches is not None
    run.record.known.setdefault((known.code, known.torch_name), known)
    watcher.phase("replaying the other steps whose losses differ")
    failures = [item for judgement in run.record.failures for item in judgement.comparisons]
    beyond = first_beyond_clipping(
        run.case, run.crew, run.folder, run.session.names, failure, failures, run.batches, watcher.tick
    )
    if beyond is not None:
        run.inconclusive = True
        run.warnings.append(clipping_warning(failure, beyond))
    return True


def _first_unexplained(run: Run, watcher: Watcher) -> Optional[Comparison]:
    failures = [item for judgement in run.record.failures for item in judgement.comparisons]
    if not failures:
        return None
    if beyond_noise(failures[0]) or run.crew is None or run.session is None or run.batches is None:
        return failures[0]
    watcher.phase("measuring rounding noise: torch against itself")
    last = max(item.step for item in failures) + 1
    noise = measure_noise(run.case, run.crew, run.folder, run.session.names, last, run.batches, watcher.tick)
    unexplained, blinded = weigh(failures, noise)
    if unexplained is None:
        run.inconclusive = blinded is not None
        run.warnings.append(describe_noise(failures[0], noise, blinded))
    return unexplained


def _judge_what_came(run: Run) -> None:
    """After a failure: say where the finished steps stand; causes from declarations only, no further worker is started."""
    failure = run.record.first_failure()
    if failure is not None:
        run.warnings.append(
            f"before the failure, at step {failure.step}, the sides had diverged: {failure.kind} {failure.name}: {failure.reason}"
        )
        run.causes = explain(_evidence(run), failure, None)
    elif run.record.steps:
        run.warnings.append(f"the {run.record.steps} steps finished before the failure are aligned")


def _evidence(run: Run) -> Evidence:
    assert run.session is not None
    return Evidence(
        run.case, run.session.names, run.declarations["torch"], run.declarations["paddle"], run.record, run.initial, run.findings
    )


def result_of(run: Run) -> Result:
    """Return the result of a run as far as it came."""
    verdict = Verdict.ALIGNED
    if run.error is not None:
        verdict = Verdict.FAILED
    elif run.divergence is not None:
        verdict = Verdict.DIVERGED
    elif run.inconclusive:
        verdict = Verdict.INCONCLUSIVE
    extra = run.crew.placement.devices if run.crew is not None else {}
    return Result(
        stepalign=VERSION,
        verdict=verdict,
        case=case_facts(run.case),
        steps_completed=run.record.steps,
        torch=side_facts(run.facts.get("torch"), run.record.batch_digests[0], _device_facts(extra.get("torch"))),
        paddle=side_facts(run.facts.get("paddle"), run.record.batch_digests[1], _device_facts(extra.get("paddle"))),
        series=series_of(run.record),
        first_divergence=run.divergence if verdict is Verdict.DIVERGED else None,
        known_differences=tuple(run.record.known.values()),
        causes=tuple(run.causes),
        findings=tuple(run.findings),
        warnings=tuple(run.warnings),
        compared=run.compared,
        worst=worst_of(run.record),
        error=error_facts(run.error) if run.error is not None else None,
    )


def _device_facts(device: object) -> Dict[str, object]:
    from stepalign.coordinator.placement import Device

    if not isinstance(device, Device):
        return {}
    return {"gpu": device.gpu_uuid, "cores": list(device.cores), "threads": device.threads}


def _write_rates(run: Run) -> None:
    if run.schedule is not None:
        milestones = run.case.file.schedule.chosen_milestones()
        sides = at_milestones(run.schedule.rates[0], milestones), at_milestones(run.schedule.rates[1], milestones)
        write_rate_log(run.folder, sides, {step: run.schedule.passed_at(step) for step in milestones})
    elif run.record.steps:
        rates = run.record.rates
        write_rate_log(run.folder, (dict(enumerate(rates[0])), dict(enumerate(rates[1]))), dict(enumerate(run.record.rate_passed)))
