"""``stepalign replay``."""

from __future__ import annotations

import argparse

from stepalign.coordinator.cli.command import Command
from stepalign.coordinator.cli.options import add_bind, add_run_folder


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_folder(parser)
    parser.add_argument("--step", type=int, required=True, metavar="N", help="the step, counted from 0")
    add_bind(parser)
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


COMMAND = Command(
    "replay",
    "repeat a run up to a step and compare every module's output there",
    "replaying:replay",
    _add_arguments,
    group="look",
    order=20,
    description="""\
Start both sides again, repeat a run up to a step with the same weights and
batches, and compare every module's output and gradient at that step.
""",
    examples=(("every module at step 3", "stepalign replay runs/bert-20260101-120000 --step 3"),),
    exit_codes="exit codes: 0 all agree, 1 a module differs, else as for run",
)
