"""``stepalign compare``."""

from __future__ import annotations

import argparse
from pathlib import Path

from stepalign.coordinator.cli.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "a", type=Path, metavar="A", help="the reference: a run folder (its torch side) or an .npy file"
    )
    parser.add_argument(
        "b", type=Path, metavar="B", help="the candidate: a run folder (its paddle side) or an .npy file"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


COMMAND = Command(
    "compare",
    "compare two recorded sides: run folders, or reprod_log .npy files",
    "comparing:compare",
    _add_arguments,
    group="compare",
    order=40,
    description="""\
Compare two recorded sides: the torch side of one run folder with the paddle side
of another, or two reprod_log .npy files key by key.
""",
    examples=(
        ("two runs", "stepalign compare runs/bert-20260101-120000 runs/bert-20260102-120000"),
        ("two files of reprod_log", "stepalign compare bp_align_torch.npy bp_align_paddle.npy"),
    ),
)
