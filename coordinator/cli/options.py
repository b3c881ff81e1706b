"""Options that several commands share, so that one name means one thing everywhere. Standard library only."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "zh")


def complete_by(action: argparse.Action, completer: str) -> None:
    """Have shells complete an argument by ``module:function`` below `stepalign.coordinator.cli`, imported when asked."""

    def find(prefix: str, **context: Any) -> list[str]:
        module, _, function = completer.partition(":")
        found: list[str] = getattr(importlib.import_module(f"stepalign.coordinator.cli.{module}"), function)(prefix)
        return found

    setattr(action, "completer", find)  # noqa: B010 (argcomplete's name for it)


def add_language(parser: argparse.ArgumentParser) -> None:
    """Add ``--lang``; without it nothing is stored, so that it may stand before the command and after it."""
    parser.add_argument(
        "--lang",
        choices=LANGUAGES,
        default=argparse.SUPPRESS,
        help="the language of verdicts, causes, errors and report.html (default: the locale's); result.json is English",
    )


def add_case(parser: argparse.ArgumentParser) -> None:
    """Add the positional CASE."""
    parser.add_argument("case", type=Path, metavar="CASE", help="the case's folder, which holds case.toml")


def add_case_or_commands(parser: argparse.ArgumentParser) -> None:
    """Add the positional CASE, and the commands that can be given instead."""
    parser.add_argument(
        "case",
        type=Path,
        nargs="?",
        metavar="CASE",
        help="the case's folder, which holds case.toml; or give both commands",
    )
    group = parser.add_argument_group("instead of a case: scripts that own their loop")
    group.add_argument("--torch", metavar="CMD", help="the torch side's command, run here without a shell")
    group.add_argument("--paddle", metavar="CMD", help="the paddle side's command")
    group.add_argument("--data", metavar="FILE", help="the batches: a .npz, or a .py with batches(case)")
    group.add_argument("--config", type=Path, metavar="FILE", help="a TOML file with other keys of case.toml")
    group.add_argument("--accumulate", type=int, metavar="K", help="batches that one update takes in (default: 1)")


def add_case_options(parser: argparse.ArgumentParser) -> None:
    """Add what replaces keys of case.toml."""
    group = parser.add_argument_group("in place of the case's own settings")
    group.add_argument("--steps", type=int, metavar="N", help="optimizer steps to run")
    group.add_argument("--mode", choices=("eval", "train"), help="dropout and batch statistics off or on")
    group.add_argument("--dtype", choices=("float32", "float64"), help="the dtype of weights and arithmetic")
    group.add_argument("--seed", type=int, metavar="N", help="the seed that scripts and data see")
    add_assignments(group)


def add_assignments(parser: argparse._ActionsContainer) -> None:
    """Add ``--set``."""
    action = parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assignments",
        help="set a key of case.toml (compare.resync=5) or an option of the scripts (hidden=64); may be repeated",
    )
    complete_by(action, "completing:case_keys")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add where a run's results go, and what is printed of them."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out", type=Path, metavar="DIR", help="the run folder: new or empty (default: runs/<case>-<time>)"
    )
    group.add_argument("--json", action="store_true", help="print result.json instead of the verdict's text")
    group.add_argument("--quiet", action="store_true", help="no progress and no worker output on standard error")
    group.add_argument(
        "--junit", type=Path, metavar="FILE", help="write the verdict as JUnit XML too, for a CI service"
    )
    group.add_argument(
        "--tensorboard",
        type=Path,
        metavar="DIR",
        help="write both sides' curves as TensorBoard event files too, in DIR/torch and DIR/paddle",
    )


def add_bind(parser: argparse._ActionsContainer) -> None:
    """Add ``--bind``."""
    parser.add_argument(
        "--bind",
        metavar="IP[:PORT]",
        help="where workers on other machines reach this one ([network] bind): with [torch] host or [paddle] host",
    )


def add_run_folder(parser: argparse.ArgumentParser) -> None:
    """Add the positional RUN."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
