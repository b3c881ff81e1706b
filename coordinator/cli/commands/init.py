"""``stepalign init``."""

from __future__ import annotations

import argparse
from pathlib import Path

from stepalign.coordinator.cli.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the case's folder: new or empty")


COMMAND = Command(
    "init",
    "write a commented case that runs as it is",
    "starting:init",
    _add_arguments,
    order=10,
    description="""\
Write a case: case.toml with every key explained, one script per side, and data.
It runs as it is; put your two models in and go on from there.
""",
    examples=(("write it, and run it", "stepalign init my_case && stepalign run my_case"),),
)
