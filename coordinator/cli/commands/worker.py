"""``stepalign worker``."""

from __future__ import annotations

import argparse

from stepalign.coordinator.cli.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connect", required=True, metavar="tcp://HOST:PORT", help="where the coordinator listens")
    parser.add_argument("--key", metavar="FILE", help="the side's key file (default: the variable STEPALIGN_KEY)")
    parser.add_argument("--case", default=".", metavar="DIR", help="the folder with the case's scripts on this machine")
    parser.add_argument("--python", metavar="P", help="an environment's name or an interpreter (default: the side's name)")
    parser.add_argument("--gpu", metavar="ID", help="the GPU to use, by UUID or number (default: the CPU)")
    parser.add_argument("--wait", type=float, metavar="S", help="seconds to wait for the coordinator (default: 60)")


COMMAND = Command(
    "worker",
    "run one side on this machine for a run on another",
    "remote:worker",
    _add_arguments,
    group="compare",
    order=60,
    description="""\
Run the workers of one side on this machine, for a `stepalign run`, `schedule`,
`optimizer`, `record` or `replay` on another machine, of a case that says
[torch] host or [paddle] host. That command prints this one and makes the key;
each makes a new one.
""",
    examples=(
        ("as the run prints it", "stepalign worker --connect tcp://192.0.2.1:41233 --key torch.key --case my_case"),
        ("on this machine's first GPU", "stepalign worker --connect tcp://192.0.2.1:41233 --key torch.key --gpu 0"),
    ),
    exit_codes="exit codes: 0 dismissed at the end of the run, 2 no key or no case,\n  3 refused, or the coordinator was lost",
)
"""The command; see `coordinator/cli/command.py`."""
