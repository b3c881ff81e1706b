"""Runs a case from its folder to its verdict, and leaves the run folder behind, whatever happens on the way.

Imports only what starts the workers; the rest (`stepping`, `ending`) is imported while they are waited for.
"""

from __future__ import annotations

import datetime
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Tuple

from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.processes.machine_trouble import REFUSALS, machine_trouble
from stepalign.coordinator.recordings.batches import open_batches
from stepalign.coordinator.results.records import STEPS_NAME, StepsLog, create_run_folder
from stepalign.coordinator.running.case_record import write_case_record
from stepalign.coordinator.running.repeated_log import NotRepeatedError
from stepalign.coordinator.running.run_state import Run, Watcher
from stepalign.coordinator.running.sides_record import as_it_was_placed
from stepalign.coordinator.sessions.members import both, find_crew
from stepalign.coordinator.sessions.session import Session
from stepalign.protocol.errors import StepalignError

if TYPE_CHECKING:
    from stepalign.coordinator.results.result import Result

_REST = ("stepalign.coordinator.running.stepping", "stepalign.coordinator.running.ending")


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
        _run_steps(run, watcher)
        from stepalign.coordinator.running.judgement import judge_run

        judge_run(run, watcher)
    except NotRepeatedError:
        raise
    except (StepalignError, KeyboardInterrupt) as error:
        _end_with(run, error)
    except REFUSALS as error:
        _end_with(run, machine_trouble(error))
    finally:
        if run.crew is not None:
            run.crew.close()


def write_all(run: Run) -> Result:
    """Write the run folder's files and return the result (`ending.write_all`)."""
    from stepalign.coordinator.running.ending import write_all

    return write_all(run)


def _end_with(run: Run, error: BaseException) -> None:
    from stepalign.coordinator.running.judgement import judge_what_came

    run.error = error
    judge_what_came(run)


def _run_steps(run: Run, watcher: Watcher) -> None:
    case = run.case
    watcher.phase("reading the data")
    run.batches = open_batches(case)
    run.batches[0]
    run.crew = find_crew(as_it_was_placed(case, run.origin.sides), meeting=watcher.meeting(run.folder))
    run.warnings += [*run.crew.placement.warnings, *run.crew.placement.notes]
    with (
        StepsLog(run.folder / STEPS_NAME) as log,
        Session(case, both(case, run.crew, run.folder), "train", watcher.tick) as session,
    ):
        run.session = session
        watcher.workers(session.states)
        watcher.phase("starting both workers")
        session.start(meanwhile=_import_rest)
        watcher.phase("building both sides")
        try:
            session.build()
        finally:
            run.facts, run.declarations = dict(session.facts), dict(session.declarations)
        from stepalign.coordinator.running.ending import compare_both_schedules
        from stepalign.coordinator.running.stepping import run_steps

        run_steps(run, session, log, watcher)
        compare_both_schedules(run, watcher)
    run.warnings += session.endings


def _import_rest() -> None:
    for name in _REST:
        importlib.import_module(name)
