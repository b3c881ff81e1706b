"""Runs the comparison of schedules alone: `stepalign schedule`."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Optional, Tuple

from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.processes.machine_trouble import REFUSALS, machine_trouble
from stepalign.coordinator.report import prepare_report
from stepalign.coordinator.results.deliverables import write_rate_log, write_result
from stepalign.coordinator.results.records import create_run_folder
from stepalign.coordinator.results.result import CaseFacts, Result, Series, Verdict
from stepalign.coordinator.running.run_state import Watcher
from stepalign.coordinator.running.schedule import ScheduleOutcome, at_milestones, compare_schedules, require_schedule
from stepalign.coordinator.running.verdict import VERSION, divergence_of, error_facts, side_facts
from stepalign.coordinator.sessions.members import find_crew
from stepalign.protocol.errors import StepalignError


def run_schedule(case: Case, out: Optional[Path], watcher: Watcher) -> Tuple[Result, Path]:
    """Compare the schedules of a case; return the result and the run folder."""
    require_schedule(case)
    folder = create_run_folder(f"{case.name}-schedule", now=datetime.datetime.now(), out=out)
    watcher.folder(folder)
    outcome: Optional[ScheduleOutcome] = None
    error: Optional[BaseException] = None
    try:
        with find_crew(case, meeting=watcher.meeting(folder)) as crew:
            watcher.phase(f"comparing {case.file.schedule.steps} steps of both schedules")
            outcome = compare_schedules(case, crew, folder, watcher.tick, prepare_report)
    except (StepalignError, KeyboardInterrupt) as caught:
        error = caught
    except REFUSALS as refused:
        error = machine_trouble(refused)
    if outcome is not None:
        milestones = case.file.schedule.chosen_milestones()
        sides = at_milestones(outcome.rates[0], milestones), at_milestones(outcome.rates[1], milestones)
        write_rate_log(folder, sides, {step: outcome.passed_at(step) for step in milestones})
    result = _result(case, outcome, error)
    write_result(folder, result)
    return result, folder


def _result(case: Case, outcome: Optional[ScheduleOutcome], error: Optional[BaseException]) -> Result:
    facts = CaseFacts(case.name, case.file.schedule.steps, case.file.mode, case.file.dtype, case.file.seed)
    if outcome is None:
        return Result(
            stepalign=VERSION, verdict=Verdict.FAILED, case=facts, steps_completed=0, torch=None, paddle=None,
            error=error_facts(error) if error is not None else None,
        )  # fmt: skip
    failed = bool(outcome.failures)
    return Result(
        stepalign=VERSION,
        verdict=Verdict.DIVERGED if failed else Verdict.ALIGNED,
        case=facts,
        steps_completed=len(outcome.rates[0]),
        torch=side_facts(outcome.facts.get("torch"), (), {}),
        paddle=side_facts(outcome.facts.get("paddle"), (), {}),
        series=Series(
            lr_torch=tuple(tuple(rates) for rates in outcome.rates[0]),
            lr_paddle=tuple(tuple(rates) for rates in outcome.rates[1]),
        ),
        first_divergence=divergence_of(outcome.failures[0]) if failed else None,
        causes=tuple(outcome.causes()),
        compared={"rates": f"every group at each of {len(outcome.rates[0])} steps, relative, in float64"},
    )
