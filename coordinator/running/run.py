"""Runs a case from its folder to its verdict, and leaves the run folder behind, whatever happens on the way."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Callable, List, Optional, Tuple

from stepalign.coordinator.cases.batches import batch_sizes
from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.cases.collection import plan_collection
from stepalign.coordinator.comparison.rates import pair_groups
from stepalign.coordinator.diagnosis.cause import Finding
from stepalign.coordinator.diagnosis.dropout_draws import compare_draws
from stepalign.coordinator.diagnosis.preflight import compare_declarations
from stepalign.coordinator.diagnosis.relevance import settle_by_data
from stepalign.coordinator.diagnosis.tying import find_untied
from stepalign.coordinator.processes.machine_trouble import REFUSALS, machine_trouble
from stepalign.coordinator.recordings.batches import open_batches
from stepalign.coordinator.results.deliverables import attempt, write_loss_log, write_rate_log, write_result
from stepalign.coordinator.results.records import STEPS_NAME, StepsLog, create_run_folder
from stepalign.coordinator.results.result import Result
from stepalign.coordinator.running.case_record import write_case_record
from stepalign.coordinator.running.checkpoints import Keeper, forget
from stepalign.coordinator.running.continuing import KeptParts, as_it_was_placed, check_sides, why_never_kept
from stepalign.coordinator.running.details import write_details
from stepalign.coordinator.running.heap import give_back
from stepalign.coordinator.running.judgement import judge_run, judge_what_came
from stepalign.coordinator.running.recorder import Recorder
from stepalign.coordinator.running.repeated_log import NotRepeatedError, RepeatedLog
from stepalign.coordinator.running.run_state import Run, Watcher
from stepalign.coordinator.running.schedule import at_milestones, compare_schedules, defines_schedule
from stepalign.coordinator.running.step_judge import begin_judge
from stepalign.coordinator.running.verdict import result_of
from stepalign.coordinator.sessions.lockstep import Keeping, StepPair, StepPlan
from stepalign.coordinator.sessions.members import both, find_crew
from stepalign.coordinator.sessions.naming import unused_patterns
from stepalign.coordinator.sessions.session import Session
from stepalign.coordinator.sessions.settings_check import compare_settings
from stepalign.protocol.errors import StepalignError

LOOKED_AT_STEPS = 100
"""How many steps' batches are looked through for what a declared difference depends on."""


def run_case(case: Case, out: Optional[Path], watcher: Watcher) -> Tuple[Result, Path]:
    """Run a case; return its result and its run folder. Only a run folder that cannot be made raises."""
    folder = create_run_folder(case.name, now=datetime.datetime.now(), out=out)
    watcher.folder(folder)
    run = Run(case, folder)
    write_case_record(folder, case)
    drive(run, watcher)
    return write_all(run), folder


def drive(run: Run, watcher: Watcher) -> None:
    """Run the steps and come to the verdict; why that failed is `Run.error`. Only a step of an interrupted run that does
    not come out as it was raises: NotRepeatedError.
    """
    try:
        _drive(run, watcher)
        _compare_schedules(run, watcher)
        judge_run(run, watcher)
    except NotRepeatedError:
        raise
    except (StepalignError, KeyboardInterrupt) as error:
        run.error = error
        judge_what_came(run)
    except REFUSALS as error:
        run.error = machine_trouble(error)
        judge_what_came(run)
    finally:
        if run.crew is not None:
            run.crew.close()


def write_all(run: Run) -> Result:
    """Write the run folder's files and return the result; a file that cannot be written makes the run a failed one."""
    result = result_of(run)
    failure = attempt(
        lambda: write_details(run),
        lambda: write_result(run.folder, result),
        lambda: write_loss_log(run.folder, run.record),
        lambda: _write_rates(run),
    )
    give_back()
    if failure is None or run.error is not None:
        if run.error is None:
            forget(run.folder)
        return result
    run.error = failure
    if run.divergence is None:
        judge_what_came(run)
    else:
        run.warnings.append(f"the run itself came to its end, and the sides had diverged: {run.divergence.reason}")
    failed = result_of(run)
    attempt(lambda: write_result(run.folder, failed))
    return failed


def _drive(run: Run, watcher: Watcher) -> None:
    case = run.case
    watcher.phase("reading the data")
    run.batches = open_batches(case)
    run.batches[0]
    run.crew = find_crew(as_it_was_placed(run), meeting=watcher.meeting(run.folder))
    run.warnings += [*run.crew.placement.warnings, *run.crew.placement.notes]
    with (
        StepsLog(run.folder / STEPS_NAME) as log,
        Session(case, both(case, run.crew, run.folder), "train", watcher.tick) as session,
    ):
        run.session = session
        watcher.workers(session.states)
        watcher.phase("starting both workers")
        session.start()
        watcher.phase("building both sides")
        try:
            session.build()
        finally:
            run.facts, run.declarations = dict(session.facts), dict(session.declarations)
        torch, paddle = session.declarations["torch"], session.declarations["paddle"]
        run.warnings += unused_patterns(torch.tensors, paddle.tensors, case.file.weights)
        run.warnings += compare_settings(session.facts["torch"], session.facts["paddle"])
        run.findings = compare_declarations(
            torch,
            paddle,
            [(piece.torch.tensor, piece.paddle.tensor) for piece in session.names.pieces],
            session.names.modules,
            case.file.mode,
            case.file.compare.dropout,
        )
        run.findings = find_untied(session.names) + settle_by_data(
            run.findings, (run.batches[step] for step in range(min(case.steps, LOOKED_AT_STEPS)))
        )
        watcher.phase("exchanging initial weights")
        run.initial = session.exchange_weights()
        check_sides(run)
        judge = begin_judge(case, session, run.initial)
        run.collection, rule = plan_collection(case, torch)
        run.compared = {
            "initial weights": "every value; read back where they were loaded, sent from there only where bytes differ",
            "tensors": rule,
            "rates and losses": "every step",
            "batches": "digest of every step's bytes",
        }
        if case.against is not None:
            run.compared[f"{case.against.side} side"] = f"recorded {case.against.made}, played back from {case.against.place.name}"
        lines = RepeatedLog(log, run.folder, run.origin.recorded)
        recorder = Recorder(judge, lines, case.file.compare.resync, watcher.step)
        run.record = recorder.record
        watcher.worst(run.record.worst)
        run.record.rate_pairs = tuple((ours, theirs) for ours, theirs, _ in pair_groups(session.names, torch, paddle))
        run.record.batch_sizes = batch_sizes(run.batches[0])
        found: List[Finding] = []
        parts = KeptParts(judge, recorder.record, found)
        first = parts.restore(run, watcher)
        every_s = 0.0 if why_never_kept(case) else case.file.resume.every_s
        keeper = Keeper(run.folder, log, every_s, parts.describe)
        watcher.phase(f"running {case.steps} steps")
        activations = case.file.collect.activations
        plan = StepPlan(first, case.steps, run.collection.kinds, lambda step: activations, case.file.compare.resync)
        run.plan = replace(_with_activations(plan), keeping=Keeping(keeper.due, keeper.keep))
        session.step(run.plan, run.batches, _watching_masks(run, recorder.take, found))
    run.warnings += session.endings


def _watching_masks(
    run: Run, take: Callable[[StepPair], None], found: List[Finding]
) -> Callable[[StepPair], None]:
    """Return ``take`` such that the shared dropout masks of each step are compared too, until they differ."""

    def watch(pair: StepPair) -> None:
        take(pair)
        if not found:
            found.extend(compare_draws(pair.reference.masks, pair.candidate.masks))
            run.findings += found

    return watch


def _with_activations(plan: StepPlan) -> StepPlan:
    if not plan.activations(0):
        return plan
    return replace(plan, kinds=lambda step: (*plan.kinds(step), "activation"))


def _compare_schedules(run: Run, watcher: Watcher) -> None:
    defined = defines_schedule(run.case)
    if not any(defined.values()):
        return
    if not all(defined.values()):
        alone = next(side for side, there in defined.items() if there)
        run.warnings.append(
            f"only the {alone} side's script defines schedule(case): schedules were not compared on their own"
        )
        return
    assert run.crew is not None
    watcher.phase(f"comparing {run.case.file.schedule.steps} steps of both schedules")
    run.schedule = compare_schedules(run.case, run.crew, run.folder, watcher.tick)
    run.compared["schedules"] = run.schedule.describe(run.case.file.schedule.chosen_milestones())


def _write_rates(run: Run) -> None:
    if run.schedule is not None:
        milestones = run.case.file.schedule.chosen_milestones()
        sides = at_milestones(run.schedule.rates[0], milestones), at_milestones(run.schedule.rates[1], milestones)
        write_rate_log(run.folder, sides, {step: run.schedule.passed_at(step) for step in milestones})
    elif run.record.steps:
        write_rate_log(run.folder, run.record.rates, run.record.rate_passed)
