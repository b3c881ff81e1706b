"""``stepalign schedule``."""

from __future__ import annotations

import argparse

from stepalign.coordinator.cli.command import Command
from stepalign.coordinator.cli.options import add_assignments, add_bind, add_case, add_output


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_case(parser)
    group = parser.add_argument_group("in place of the case's own settings")
    group.add_argument("--steps", type=int, metavar="N", help="how many steps of the schedule to compare")
    add_assignments(group)
    add_output(parser)
    add_bind(parser)


COMMAND = Command(
    "schedule",
    "compare the learning rates alone: thousands of steps in seconds",
    "running:schedule",
    _add_arguments,
    group="compare",
    order=30,
    description="""\
Compare both sides' learning rates alone. Each script's schedule(case) is called;
no model is built and no batch is read, so thousands of steps take seconds.
""",
    examples=(
        ("as many steps as [schedule] steps says", "stepalign schedule my_case"),
        ("a whole training's worth", "stepalign schedule my_case --steps 100000"),
    ),
)
