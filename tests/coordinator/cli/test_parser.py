"""The command line as its help tells it: every command has examples that parse, and its work is where it says."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepalign.coordinator.cli import commands
from stepalign.coordinator.cli.command import Command
from stepalign.coordinator.cli.parser import build_parser, find_commands


def every_command() -> Iterator[tuple[str, Command]]:
    for command in find_commands():
        yield command.name, command
        for action in command.actions:
            yield f"{command.name} {action.name}", action


COMMANDS = dict(every_command())
MODULES = sorted(Path(commands.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_examples_that_parse_and_a_handler_that_is_there(name: str) -> None:
    command = COMMANDS[name]
    assert command.examples
    for _, line in command.examples:
        if line.startswith("stepalign "):
            found = [part.removeprefix("stepalign ") for part in re.split(r" && | \| | > ", line) if part.startswith("stepalign ")]
        else:
            found = re.findall(r"stepalign ([a-z][^&)>|]*)", line)
        assert found
        for words in map(shlex.split, found):
            assert isinstance(build_parser().parse_args(words), argparse.Namespace)
    module, _, function = f"stepalign.coordinator.cli.{command.handler}".partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_readable_in_80_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([*name.split(), "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert shown.startswith(f"usage: stepalign {name}")
    # an example is one line that can be copied
    assert all(len(line) <= 80 for line in shown.splitlines() if not line.startswith("  stepalign "))


def test_the_help_of_the_whole_names_every_command_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    for command in find_commands():
        assert sum(line.startswith(f"  {command.name} ") for line in lines) == 1


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_commands_module_is_cheap_to_import(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("stepalign"):
            assert node.module in ("stepalign.coordinator.cli.command", "stepalign.coordinator.cli.options")
        elif isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= sys.stdlib_module_names
