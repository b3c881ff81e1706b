"""``stepalign demo``."""

from __future__ import annotations

import argparse

from stepalign.coordinator.cli.command import Command
from stepalign.coordinator.cli.options import add_case_options, add_output


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_case_options(parser)
    add_output(parser)


COMMAND = Command(
    "demo",
    "run the built-in BERT-style case, from nothing to a verdict",
    "running:demo",
    _add_arguments,
    group="compare",
    order=10,
    description="""\
Run the built-in BERT-style case: ten training steps of a small text classifier
in PyTorch and in PaddlePaddle, and 5,000 steps of their learning rates alone.
The two environments are made if they are missing, which takes a few minutes
the first time.
""",
    examples=(
        ("run it", "stepalign demo"),
        ("keep its results in a folder of your own", "stepalign demo --out demo_run"),
    ),
)
