"""``stepalign record``."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from stepalign.coordinator.cli.log_tail import LogTail
from stepalign.coordinator.cli.running import chosen_case, print_notice
from stepalign.coordinator.processes.interruption import Interruption
from stepalign.coordinator.recordings.making import Steps, Wanted, record_side
from stepalign.coordinator.running.run_state import Watcher
from stepalign.protocol.errors import CaseError


def record(options: argparse.Namespace) -> int:
    """Record one side of a case."""
    case = chosen_case(options)
    place = options.out or Path(f"{case.name}-{options.side}.zip")
    wanted = Wanted(read_steps(options.activations), not options.no_noise, not options.no_batches)
    with ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        tail = LogTail(lambda side, line: None if options.quiet else _tell(f"[{side}] {line}"))

        def tick() -> None:
            tail.read()
            interruption.raise_if_asked()

        phase = (lambda text: None) if options.quiet else _tell
        watcher = Watcher(phase=phase, tick=tick, folder=tail.follow, notice=print_notice)
        record_side(case, options.side, place, wanted, watcher)
    print(f"recorded the {options.side} side in {place}; compare with: stepalign run {case.folder} --against {place}")
    return 0


def read_steps(text: str) -> Steps:
    """Return the steps that ``all``, ``none`` or ``0,3`` names. Raises CaseError."""
    if text == "all":
        return "all"
    try:
        steps = () if text == "none" else tuple(int(part) for part in text.split(","))
    except ValueError:
        steps = (-1,)
    if any(step < 0 for step in steps):
        raise CaseError(f"--activations takes steps as 0,3, or all, or none; got {text!r}")
    return steps


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
