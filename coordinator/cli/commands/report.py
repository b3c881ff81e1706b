"""``stepalign report``."""

from __future__ import annotations

import argparse

from stepalign.coordinator.cli.command import Command
from stepalign.coordinator.cli.options import add_run_folder


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_folder(parser)
    parser.add_argument("--json", action="store_true", help="print result.json instead of the verdict's text")


COMMAND = Command(
    "report",
    "rebuild the views of a run folder and print its verdict",
    "reporting:report",
    _add_arguments,
    group="look",
    order=10,
    description="""\
Write report.html and losses.md of a run folder again, from its result.json and
steps.jsonl, print the verdict, and end with the run's exit code.
""",
    examples=(("rebuild", "stepalign report runs/bert-20260101-120000"),),
)
