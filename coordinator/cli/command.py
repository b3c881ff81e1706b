"""What one command of the command line is: its name, what its help says, its arguments, and where its work is done.

A command is a module below `coordinator/cli/commands/` with one constant, ``COMMAND``; nothing else names it. Such a
module imports the standard library and this package only: all of them are imported to answer ``--help``. The work is
named as ``module:function`` below `coordinator/cli/` and imported when the command runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

GROUPS = {
    "compare": "compare two sides",
    "look": "look at a run again",
    "prepare": "set up",
}
"""The headings of ``stepalign --help``, in order."""


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command takes no arguments of its own."""


class Command(NamedTuple):
    """One command; see the module. ``order`` sorts the commands of a group in the help, then their names do."""

    name: str
    help: str
    """One line, without a full stop, in lower case."""
    handler: str
    """``module:function`` below `stepalign.coordinator.cli`: takes the parsed options, returns the exit code."""
    add_arguments: Callable[[argparse.ArgumentParser], None] = no_arguments
    group: str = "prepare"
    order: int = 50
    description: str = ""
    """What the command does, in paragraphs; `help` where it is empty."""
    examples: tuple[tuple[str, str], ...] = ()
    """What each example does, and its command line."""
    exit_codes: str = ""
    """What the exit codes mean, where it is not what they mean everywhere."""
    actions: tuple[Command, ...] = ()
    """Commands of the second level, as ``env create``."""
