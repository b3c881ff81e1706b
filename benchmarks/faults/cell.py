"""One cell of the matrix: a fault, where it happens, and what a user must see of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

STEPS = 6


@dataclass(frozen=True)
class Expected:
    """What must be seen.

    exit_code: of the command, negative for a signal. message: a regular expression that the message's first line must have.
    within_s: from the fault to the end of the command; deadlines and the ladder are part of it.
    steps: how many finished steps the run folder must hold at least. verdict: the one that is printed.
    """

    exit_code: int
    message: str
    within_s: float = 15.0
    steps: int = 0
    verdict: str = "failed"
    report_code: int | None = None
    keeps_folder: bool = True

    @property
    def reported(self) -> int | None:
        """What `stepalign report` on the run folder must end with: the command's own exit code, unless it was killed;
        None where there need be no run folder.
        """
        return (self.exit_code if self.keeps_folder else None) if self.report_code is None else self.report_code


@dataclass
class Running:
    """A command that runs: its process, its folders; ``undo`` is called when all is over."""

    process: Popen[str]
    folder: Path
    out: Path
    note: Path
    undo: list[Callable[[], None]]


@dataclass
class Scene:
    """What a cell may still change before its command starts; ``undo`` is called when all is over."""

    folder: Path
    arguments: list[str]
    environment: dict[str, str]
    limits: dict[int, int] = field(default_factory=dict)
    undo: list[Callable[[], None]] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """One run with one fault.

    torch, paddle: what goes wrong in that worker, as `tests/doubles/misbehaviour.py` reads it.
    workers: "double" for numpy alone, "real" for torch and paddle. toml: further tables of case.toml.
    scripts: other texts for torch_side.py, paddle_side.py, data.py.
    prepare: changes the scene. act: does something to the command once the note of a worker's fault is there.
    It may return the moment from which the time runs. needs: "root", where it takes root's rights.
    quick: the tests run it too.
    """

    group: str
    fault: str
    phase: str
    expected: Expected
    torch: str = ""
    paddle: str = ""
    workers: str = "double"
    toml: str = ""
    command: str = "run"
    scripts: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Scene], Any] | None = None
    act: Callable[[Running], Any] | None = None
    needs: str = ""
    quick: bool = False

    @property
    def name(self) -> str:
        """What ``--only`` is matched with."""
        side = "torch" if self.torch else "paddle" if self.paddle else "real"
        where = self.workers if self.workers == "double" else side
        return f"{self.group}/{self.fault}/{self.phase}/{where}".replace(" ", "_")


@dataclass(frozen=True)
class Observed:
    """What was seen. ``seconds`` is from the fault to the end of the command, ``gone_s`` to that of its last process;
    ``left`` lists what stayed behind.
    """

    cell: Cell
    exit_code: int | None
    message: str
    seconds: float
    gone_s: float
    verdict: str
    steps: int
    report_code: int | None
    left: tuple[str, ...]
    problems: tuple[str, ...]
    skipped: str = ""
    output: str = ""
