"""``stepalign demo``, ``run``, ``schedule`` and ``optimizer``.

A command imports what is its own when it is called: what comes before the workers' start is waited for.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Sequence, Tuple

from stepalign.coordinator.cases.case import SIDES, Case
from stepalign.coordinator.cases.choice import choose_case
from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.cli.log_tail import LogTail
from stepalign.coordinator.environments import managed
from stepalign.coordinator.processes.interruption import Interruption
from stepalign.coordinator.processes.private_folder import PrivateFolder
from stepalign.coordinator.report.ci_outputs import tell_ci, told_to_ci
from stepalign.coordinator.report.live import LiveView
from stepalign.coordinator.running.case_record import read_case_record, recorded_against, recorded_assignments
from stepalign.coordinator.running.run import run_case
from stepalign.coordinator.running.run_state import Watcher
from stepalign.protocol.errors import CaseError

if TYPE_CHECKING:
    from stepalign.coordinator.comparison.comparison import StepJudgement
    from stepalign.coordinator.results.result import Result
    from stepalign.coordinator.sessions.step_plan import StepPair

DEMO_CASE = Path(__file__).parent.parent / "cases" / "demo_case"

_OVERRIDES = ("steps", "mode", "dtype", "seed")


@told_to_ci
def run(options: argparse.Namespace) -> int:
    """Run a case, or two commands, or continue a run of them."""
    if options.resume is not None:
        from stepalign.coordinator.running.resume import resume_case

        continued = _continued_case(options)
        return _watched(options, continued, lambda watcher: resume_case(continued, options.resume, watcher))
    case = chosen_case(options)
    return _watched(options, case, lambda watcher: run_case(case, options.out, watcher))


def _continued_case(options: argparse.Namespace) -> Case:
    """Return the case of an interrupted run: the one that is named, or else the one of its folder."""
    if options.case is None and options.config is None and not any(getattr(options, side) for side in SIDES):
        if _assignments(options):
            raise CaseError("--set and --bind go with the case: name it as the interrupted run's command line did")
        return read_case_record(options.resume)
    options.assignments = [*recorded_assignments(options.resume), *options.assignments]
    options.against = options.against or recorded_against(options.resume)
    return chosen_case(options)


@told_to_ci
def demo(options: argparse.Namespace) -> int:
    """Make both environments if they are missing, then run the built-in case."""
    for side in SIDES:
        managed.create(side, side, on_line=lambda line: print(line, file=sys.stderr, flush=True))
    with ExitStack() as stack:
        private = PrivateFolder()
        stack.callback(private.remove)
        folder = private.path / "demo"
        shutil.copytree(DEMO_CASE, folder, ignore=shutil.ignore_patterns("__pycache__"))
        case = _load(options, folder)
        return _watched(options, case, lambda watcher: run_case(case, options.out, watcher))


@told_to_ci
def schedule(options: argparse.Namespace) -> int:
    """Compare both sides' learning rates alone."""
    from stepalign.coordinator.running.run_schedule import run_schedule

    assignments = [] if options.steps is None else [f"schedule.steps={options.steps}"]
    case = load_case(options.case, [*_assignments(options), *assignments])
    milestones = case.file.schedule.chosen_milestones()
    return _watched(options, case, lambda watcher: run_schedule(case, options.out, watcher), milestones)


@told_to_ci
def optimizer(options: argparse.Namespace) -> int:
    """Compare both sides' optimizers alone, under given gradients."""
    from stepalign.coordinator.running.run_optimizer import run_optimizer

    assignments = [] if options.steps is None else [f"optimizer.steps={options.steps}"]
    case = load_case(options.case, [*_assignments(options), *assignments], dtype=options.dtype)
    return _watched(options, case, lambda watcher: run_optimizer(case, options.out, watcher))


def chosen_case(options: argparse.Namespace) -> Case:
    """Return the case that the options name, or the one that they make of commands."""
    commands = {side: getattr(options, side) for side in SIDES}
    overrides: Dict[str, Any] = {key: getattr(options, key) for key in _OVERRIDES}
    against = getattr(options, "against", None)
    chosen = options.case, commands, options.data, options.config, _assignments(options), options.accumulate, against
    return choose_case(*chosen, **overrides)


def _assignments(options: argparse.Namespace) -> Sequence[str]:
    """Return what is set over case.toml, --bind too."""
    bound = [] if options.bind is None else [f"network.bind={json.dumps(options.bind)}"]
    return [*options.assignments, *bound]


def _load(options: argparse.Namespace, folder: Path) -> Case:
    overrides: Dict[str, Any] = {key: getattr(options, key) for key in _OVERRIDES}
    return load_case(folder, options.assignments, **overrides)


def _watched(
    options: argparse.Namespace,
    case: Case,
    call: Callable[[Watcher], Tuple[Result, Path]],
    rate_steps: Sequence[int] = (),
) -> int:
    if options.tensorboard is not None:
        from stepalign.coordinator.report.event_files import check_event_files

        check_event_files(options.tensorboard)
    started_s = time.monotonic()
    with ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        view = stack.enter_context(LiveView(enabled=not options.quiet))
        tail = LogTail(view.worker_line)

        def tick() -> None:
            tail.read()
            interruption.raise_if_asked()

        def step(pair: StepPair, judgement: StepJudgement) -> None:
            losses = float(pair.reference.loss), float(pair.candidate.loss)
            view.step(pair.step, case.steps, losses, (pair.reference.lr, pair.candidate.lr))

        watcher = Watcher(
            view.phase, step, tick, tail.follow, view.follow_workers, view.follow_worst, notice=print_notice, own_process=True
        )
        result, folder = call(watcher)
        tail.read()
    _tell(options, case, result, folder, rate_steps, time.monotonic() - started_s)
    return result.exit_code


def _tell(
    options: argparse.Namespace, case: Case, result: Result, folder: Path, rate_steps: Sequence[int], seconds: float
) -> None:
    """Tell the result in all the ways that were asked for."""
    from stepalign.coordinator import api
    from stepalign.coordinator.report.terminal import print_verdict
    from stepalign.coordinator.results.result_json import to_json

    if options.tensorboard is not None:
        from stepalign.coordinator.report.event_files import write_event_files

        write_event_files(options.tensorboard, result)
    if options.json:
        print(json.dumps(to_json(result), indent=1, allow_nan=False))
    else:
        print_verdict(result, folder, rate_steps=rate_steps)
    tell_ci(options.junit, case, api.Result(result, folder, tuple(rate_steps)), seconds)


def print_notice(text: str) -> None:
    """Print what a person has to do, with --quiet too."""
    print(f"stepalign: {text}", file=sys.stderr, flush=True)
