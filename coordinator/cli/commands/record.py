"""``stepalign record``."""

from __future__ import annotations

import argparse
from pathlib import Path

from stepalign.coordinator.cli.command import Command
from stepalign.coordinator.cli.options import add_bind, add_case_options, add_case_or_commands


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_case_or_commands(parser)
    parser.add_argument("--side", choices=("torch", "paddle"), default="torch", help="the side to record (default: torch)")
    add_case_options(parser)
    add_bind(parser)
    group = parser.add_argument_group("what is kept")
    group.add_argument(
        "--activations",
        metavar="STEPS",
        default="0",
        help="keep every module's output at these steps: 0,3 or all or none (default: 0)",
    )
    group.add_argument("--no-noise", action="store_true", help="no noise control: rounding is not told from mistakes later")
    group.add_argument("--no-batches", action="store_true", help="digests of the batches only, not the batches")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", type=Path, metavar="PLACE", help="a new folder or .zip (default: <case>-<side>.zip in this folder)"
    )
    output.add_argument("--quiet", action="store_true", help="no progress and no worker output on standard error")


COMMAND = Command(
    "record",
    "run one side alone and keep it, to compare the other with later",
    "recording:record",
    _add_arguments,
    group="compare",
    order=25,
    description="""\
Run one side of a case alone and keep what it gave at every step: weights,
batches, rates, losses, gradients, optimizer state, declarations, versions. On
another machine, where the framework need not be installed, the other side is
compared with it: stepalign run CASE --against RECORDING.
""",
    examples=(
        ("record the torch side, and compare the port with it elsewhere", "stepalign record my_case --side torch"),
        ("a folder, with every module's output at each step", "stepalign record my_case --out ref --activations all"),
        ("compare a port with it", "stepalign run my_case --against my_case-torch.zip"),
    ),
)
