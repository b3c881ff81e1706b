"""``stepalign run``."""

from __future__ import annotations

import argparse
from pathlib import Path

from stepalign.coordinator.cli.command import Command
from stepalign.coordinator.cli.options import add_bind, add_case_options, add_case_or_commands, add_output


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_case_or_commands(parser)
    parser.add_argument(
        "--against", type=Path, metavar="RECORDING", help="what `stepalign record` wrote stands for one side"
    )
    add_case_options(parser)
    add_output(parser)
    add_bind(parser)
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="continue the interrupted run of this folder, in this folder, with the options that it was given",
    )


COMMAND = Command(
    "run",
    "run a case: both sides in lockstep, a verdict, a run folder",
    "running:run",
    _add_arguments,
    group="compare",
    order=20,
    description="""\
Run a case: start both sides, each in an environment of its own, give them the
same weights and batches, compare every step, and come to a verdict. What the
run leaves, report.html first, is in the run folder.

Instead of a case, --torch and --paddle give the commands of two training
scripts that own their loop; each needs four lines for it, see docs/scripts.md.
""",
    examples=(
        ("run a case as it says", "stepalign run my_case"),
        ("fewer steps, in float64, with dropout on", "stepalign run my_case --steps 3 --dtype float64 --mode train"),
        ("change a key of case.toml and an option", "stepalign run my_case --set compare.resync=5 --set hidden=64"),
        (
            "two training scripts that own their loop",
            "stepalign run --torch 'python train.py' --paddle 'python port.py' --data data.npz --steps 5",
        ),
        ("compare with a side that was recorded elsewhere", "stepalign run my_case --against my_case-torch.zip"),
        ("go on with a run that was interrupted", "stepalign run my_case --resume runs/my_case-20260101-120000"),
        ("in a CI job", "stepalign run my_case --quiet --out result --junit result.xml"),
    ),
)
