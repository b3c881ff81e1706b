"""What the command line takes. Standard library only, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

import stepalign

_EXITS = """\
exit codes:
  0 aligned    1 diverged    2 the case or the command line is wrong
  3 an environment or a worker failed    4 inconclusive    130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; each command stores its handler's ``module:function`` in ``handler``."""
    parser = argparse.ArgumentParser(
        prog="stepalign",
        description="Show that a PaddlePaddle port of a PyTorch model trains the same, or where and why it does not.",
        epilog=_EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"stepalign {stepalign.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_run(commands)
    _add_schedule(commands)
    _add_compare(commands)
    _add_report(commands)
    _add_replay(commands)
    _add_init(commands)
    _add_env(commands)
    _add_doctor(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _command(commands: Commands, name: str, help_text: str, handler: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    parser.set_defaults(handler=f"stepalign.coordinator.cli.{handler}")
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print result.json instead of the table")
    parser.add_argument("--quiet", action="store_true", help="no progress and no worker output on standard error")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the run folder: new or empty (default: runs/<case>-<time>)"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the verdict as JUnit XML too, for a CI service")


def _add_case_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps to run")
    parser.add_argument("--mode", choices=("eval", "train"), help="dropout and batch statistics off or on")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="the dtype of weights and arithmetic")
    parser.add_argument("--seed", type=int, metavar="N", help="the seed that scripts and data see")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
        help="set a key of case.toml (compare.resync=5) or an option (hidden=64); may be repeated",
    )  # fmt: skip


def _add_demo(commands: Commands) -> None:
    parser = _command(
        commands, "demo", "run the built-in BERT-style case; makes both environments if missing", "running:demo"
    )
    _add_case_options(parser)
    _add_output(parser)


def _add_run(commands: Commands) -> None:
    parser = _command(commands, "run", "run a case: both sides in lockstep, a verdict, a run folder", "running:run")
    parser.add_argument("case", type=Path, metavar="CASE", help="the case's folder")
    _add_case_options(parser)
    _add_output(parser)


def _add_schedule(commands: Commands) -> None:
    parser = _command(
        commands, "schedule", "compare the learning rates alone: thousands of steps in seconds", "running:schedule"
    )
    parser.add_argument("case", type=Path, metavar="CASE", help="the case's folder")
    parser.add_argument("--steps", type=int, metavar="N", help="how many steps of the schedule to compare")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments", help="as for run"
    )
    _add_output(parser)


def _add_compare(commands: Commands) -> None:
    parser = _command(
        commands, "compare", "compare two recorded sides: run folders, or reprod_log .npy files", "comparing:compare"
    )
    parser.add_argument(
        "a", type=Path, metavar="A", help="the reference: a run folder (its torch side) or an .npy file"
    )
    parser.add_argument(
        "b", type=Path, metavar="B", help="the candidate: a run folder (its paddle side) or an .npy file"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_report(commands: Commands) -> None:
    parser = _command(commands, "report", "rebuild the views of a run folder and print its verdict", "reporting:report")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument("--json", action="store_true", help="print result.json instead of the table")


def _add_replay(commands: Commands) -> None:
    parser = _command(
        commands, "replay", "repeat a run up to a step and compare every module's output there", "replaying:replay"
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument("--step", type=int, required=True, metavar="N", help="the step, counted from 0")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


def _add_init(commands: Commands) -> None:
    parser = _command(commands, "init", "write a commented case that runs as it is", "starting:init")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the case's folder: new or empty")


def _add_env(commands: Commands) -> None:
    parser = _command(
        commands, "env", "the workers' isolated environments: create, list, remove", "environment:list_all"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = _command(actions, "create", "make an environment; a complete one is kept", "environment:create")
    create.add_argument("name", metavar="NAME", help="its name, as [torch] python and [paddle] python give it")
    create.add_argument(
        "--framework", choices=("torch", "paddle"), help="what it is for (default: NAME, if that is one)"
    )
    create.add_argument("--version", metavar="V", help="the framework's version (default: the pinned one)")
    create.add_argument("--distribution", metavar="D", help="what provides the framework, e.g. paddlepaddle-gpu")
    create.add_argument("--python", metavar="P", help="the interpreter to build on (default: this one)")
    create.add_argument(
        "--package", "--with", action="append", default=[], dest="packages", metavar="PKG", help="a further package"
    )
    create.add_argument(
        "-r", "--requirements", type=Path, metavar="FILE", help="a requirements file of further packages"
    )
    create.add_argument(
        "--pip-arg", action="append", default=[], dest="pip_args", metavar="ARG", help="passed on to pip install"
    )
    create.add_argument("--recreate", action="store_true", help="remove an environment of that name first")
    _command(actions, "list", "list the environments", "environment:list_all")
    remove = _command(actions, "remove", "remove an environment", "environment:remove")
    remove.add_argument("name", metavar="NAME")


def _add_doctor(commands: Commands) -> None:
    _command(
        commands,
        "doctor",
        "say what is installed, what is missing, and the command that mends it",
        "environment:doctor",
    )
