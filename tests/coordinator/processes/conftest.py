"""A second machine, for the tests that need one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..two_machines import Command, make_other_machine


@pytest.fixture(scope="module")
def other_machine() -> Iterator[str]:
    """Another machine with a link to this one."""
    yield from make_other_machine()


@pytest.fixture
def start(other_machine: str, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Start commands that need the other machine; each in a folder of its own."""
    started: list[Command] = []

    def begin(*words: object, **variables: str) -> Command:
        started.append(Command(tmp_path / f"command-{len(started)}", words, **variables))
        return started[-1]

    yield begin
    for command in started:
        command.close()
