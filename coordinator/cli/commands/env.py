"""``stepalign env``: its three actions."""

from __future__ import annotations

import argparse
from pathlib import Path

from stepalign.coordinator.cli.command import Command
from stepalign.coordinator.cli.options import complete_by


def _add_create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="its name, as [torch] python and [paddle] python give it")
    parser.add_argument(
        "--framework", choices=("torch", "paddle"), help="what it is for (default: NAME, if that is one)"
    )
    parser.add_argument("--version", metavar="V", help="the framework's version (default: the pinned one)")
    parser.add_argument("--distribution", metavar="D", help="what provides the framework, e.g. paddlepaddle-gpu")
    parser.add_argument("--python", metavar="P", help="the interpreter to build on (default: this one)")
    parser.add_argument(
        "--package", "--with", action="append", default=[], dest="packages", metavar="PKG", help="a further package"
    )
    parser.add_argument(
        "-r", "--requirements", type=Path, metavar="FILE", help="a requirements file of further packages"
    )
    parser.add_argument(
        "--pip-arg", action="append", default=[], dest="pip_args", metavar="ARG", help="passed on to pip install"
    )
    parser.add_argument("--recreate", action="store_true", help="remove an environment of that name first")


def _add_remove(parser: argparse.ArgumentParser) -> None:
    complete_by(
        parser.add_argument("name", metavar="NAME", help="its name, as env list shows it"),
        "completing:environment_names",
    )


COMMAND = Command(
    "env",
    "the workers' isolated environments: create, list, remove",
    "environment:list_all",
    order=20,
    description="""\
Make, list and remove the workers' environments. Each holds one framework, numpy,
pyzmq and msgpack; a case names its two in [torch] python and [paddle] python.
""",
    examples=(
        ("the two that cases use by default", "stepalign env create torch && stepalign env create paddle"),
        ("what there is", "stepalign env list"),
    ),
    actions=(
        Command(
            "create",
            "make an environment; a complete one is kept",
            "environment:create",
            _add_create,
            order=10,
            examples=(
                ("the pinned version", "stepalign env create torch"),
                (
                    "another version, with a further package",
                    "stepalign env create torch_hf --framework torch --version 2.9.1 --with transformers",
                ),
                (
                    "Paddle for GPUs",
                    "stepalign env create paddle_gpu --framework paddle --distribution paddlepaddle-gpu",
                ),
            ),
        ),
        Command(
            "list",
            "list the environments",
            "environment:list_all",
            order=20,
            examples=(("list them", "stepalign env list"),),
        ),
        Command(
            "remove",
            "remove an environment",
            "environment:remove",
            _add_remove,
            order=30,
            examples=(("remove one", "stepalign env remove torch_hf"),),
        ),
    ),
)
