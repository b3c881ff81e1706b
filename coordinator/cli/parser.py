"""Builds the command line from the modules of `coordinator/cli/commands/`. Standard library only: ``--help`` is quick."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import textwrap

import stepalign
from stepalign.coordinator.cli import commands
from stepalign.coordinator.cli.command import GROUPS, Command
from stepalign.coordinator.cli.options import add_language

_DESCRIPTION = """\
Show that a PaddlePaddle port of a PyTorch model trains the same, step by step,
or where and why it does not."""
_OPTIONS = """\
options:
  -h, --help    show this page
  --version     show the version
  --lang en|zh  the language (default: the locale's)"""
_EXITS = """\
exit codes:
  0  aligned                 1  diverged
  2  the case or the command line is wrong
  3  an environment or a worker failed
  4  inconclusive            130  interrupted
"""
_EXAMPLES = (
    ("see it work on a built-in case", "stepalign demo"),
    ("start a case of your own, and run it", "stepalign init my_case && stepalign run my_case"),
    ("look at what a command takes, with examples", "stepalign run --help"),
)
_ENVIRONMENT = """\
environment variables:
  STEPALIGN_HOME  where the workers' environments are kept
  NO_COLOR        set to anything: no colours
  LC_ALL, LC_MESSAGES, LANG  a Chinese locale (zh_CN.UTF-8): --lang zh
"""


class RootParser(argparse.ArgumentParser):
    """The parser of the whole command line; its help lists the commands in groups."""

    def __init__(self, found: tuple[Command, ...]) -> None:
        super().__init__(prog="stepalign", usage="stepalign COMMAND [options]")
        self._found = found

    def format_help(self) -> str:
        """Return the page that ``stepalign --help`` prints, at most 80 columns wide."""
        width = max(len(command.name) for command in self._found)
        parts = [self.format_usage().rstrip(), _DESCRIPTION]
        for group, title in GROUPS.items():
            rows = [f"  {item.name:{width}}  {item.help}" for item in self._found if item.group == group]
            parts += ["\n".join([f"{title}:", *rows])] if rows else []
        parts.append(_OPTIONS)
        parts += [_examples_text(_EXAMPLES), _EXITS.rstrip(), _ENVIRONMENT.rstrip()]
        return "\n\n".join(parts) + "\n"


def find_commands() -> tuple[Command, ...]:
    """Return the command of each module of `coordinator/cli/commands/`, as the help lists them."""
    names = sorted(found.name for found in pkgutil.iter_modules(commands.__path__))
    modules = (importlib.import_module(f"{commands.__name__}.{name}") for name in names)
    found: list[Command] = [module.COMMAND for module in modules]
    groups = list(GROUPS)
    return tuple(sorted(found, key=lambda item: (groups.index(item.group), item.order, item.name)))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; each command stores its handler's ``module:function`` in ``handler``."""
    found = find_commands()
    parser = RootParser(found)
    parser.add_argument("--version", action="version", version=f"stepalign {stepalign.__version__}")
    add_language(parser)
    _add(parser, "stepalign", "commands", "COMMAND", found)
    return parser


def _add(parser: argparse.ArgumentParser, prog: str, title: str, metavar: str, items: tuple[Command, ...]) -> None:
    added = parser.add_subparsers(
        title=title, metavar=metavar, required=True, parser_class=argparse.ArgumentParser, prog=prog
    )
    for item in items:
        one = added.add_parser(
            item.name,
            help=item.help,
            description=_wrapped(item.description or f"{item.help[0].upper()}{item.help[1:]}."),
            epilog="\n\n".join(part.rstrip() for part in (_examples_text(item.examples), item.exit_codes) if part),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(handler=f"stepalign.coordinator.cli.{item.handler}")
        item.add_arguments(one)
        add_language(one)
        if item.actions:
            _add(one, f"{prog} {item.name}", "actions", "ACTION", item.actions)


def _wrapped(text: str) -> str:
    return "\n\n".join(textwrap.fill(paragraph, 79) for paragraph in text.strip().split("\n\n"))


def _examples_text(examples: tuple[tuple[str, str], ...]) -> str:
    lines = [line for what, command in examples for line in (f"  # {what}", f"  {command}")]
    return "\n".join(["examples:", *lines]) if lines else ""
