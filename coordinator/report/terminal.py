"""What a person sees in a terminal: the end of a run on standard output, its progress on standard error.

Guarantees: 80 columns are enough; no terminal sequence is written to what is not a terminal, nor passed on from a
worker's text; colours follow NO_COLOR.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich import progress
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from stepalign.coordinator.report import wording
from stepalign.coordinator.report.rows import (
    StepRow,
    around_divergence,
    chosen_steps,
    group_count,
    step_count,
    step_row,
)
from stepalign.coordinator.results.result import ErrorFacts, Result, Verdict

PLAIN_WIDTH = 80
_MAX_WIDTH = 100
_MAX_ROWS = 12
_LABEL_WIDTH = 9
_SHOWN_CAUSES = 3
_SHOWN_LINES = 5
_ERROR_START, _ERROR_END = 4, 7
_STYLES = {
    Verdict.ALIGNED: "bold green",
    Verdict.DIVERGED: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.FAILED: "bold red",
}


def print_verdict(
    result: Result, folder: Path | None, file: TextIO | None = None, rate_steps: Sequence[int] = ()
) -> None:
    """Print a run's end: the table of steps, then verdict, where, why, what is known, what to do, the paths.

    ``file`` is standard output by default. A result of rates alone gets a table of rates at ``rate_steps``.
    """
    console = _console(sys.stdout if file is None else file)
    _print_table(console, result, rate_steps)
    for label, lines in _sections(result):
        _print_section(console, label, lines)
    _print_paths(console, folder)


def _console(file: TextIO) -> Console:
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    console.width = min(console.width, _MAX_WIDTH) if console.is_terminal else PLAIN_WIDTH
    return console


def _print_table(console: Console, result: Result, rate_steps: Sequence[int]) -> None:
    series = result.series
    count = step_count(series)
    if not count:
        return
    schedule_only = wording.is_schedule_only(result)
    important = [*around_divergence(result), *rate_steps]
    if schedule_only and rate_steps:
        steps = sorted({step for step in important if 0 <= step < count})
    else:
        steps = chosen_steps(count, _MAX_ROWS, important, evenly=schedule_only)
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    losses = () if schedule_only else ("torch\nloss", "paddle\nloss", "difference\n")
    for heading in ("step\n", *losses, "torch\nlr", "paddle\nlr", "relative\ndifference"):
        table.add_column(heading, justify="right", no_wrap=True)
    diverged_at = result.first_divergence.step if result.first_divergence is not None else None
    previous = -1
    for step in steps:
        if step > previous + 1 and not schedule_only:
            table.add_row("...")
        table.add_row(*_cells(step_row(series, step), schedule_only), style="bold red" if step == diverged_at else None)
        previous = step
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        console.out(line.rstrip(), highlight=False)
    if (groups := group_count(series)) > 1:
        console.print(f"rates: of {groups} groups, the one that is furthest apart at each step", style="dim")
    console.print()


def _cells(row: StepRow, schedule_only: bool) -> list[str]:
    losses = [
        wording.number(row.torch_loss, 7),
        wording.number(row.paddle_loss, 7),
        wording.number(row.loss_difference, 2) if row.loss_difference is not None else "",
    ]
    rates = [
        wording.number(row.torch_rate, 5),
        wording.number(row.paddle_rate, 5),
        wording.number(row.rate_difference, 2) if row.rate_difference is not None else "",
    ]
    return [str(row.step), *(() if schedule_only else losses), *rates]


def _print_section(console: Console, label: str, lines: Iterable[Text]) -> None:
    """Print the lines, wrapped, to the right of their label."""
    wrapped = [part for line in lines for part in line.wrap(console, console.width - _LABEL_WIDTH - 1)]
    for position, part in enumerate(wrapped):
        part.rstrip()
        start = Text(f"{label if position == 0 else '':<{_LABEL_WIDTH}}", style="bold")
        console.print(start + part if part else Text(), soft_wrap=True)
    console.print()


def _sections(result: Result) -> Iterable[tuple[str, list[Text]]]:
    verdict = Text(result.verdict.value.upper(), style=_STYLES[result.verdict])
    sides = f"{wording.side_line('torch', result.torch)}, {wording.side_line('paddle', result.paddle)}"
    headline = Text.assemble(verdict, f": {wording.headline(result)}")
    yield "VERDICT", [headline, _line(wording.case_line(result)), _line(sides)]
    if result.error is not None:
        yield "ERROR", _error_lines(result.error)
    if result.first_divergence is not None:
        place = result.first_divergence
        title = Text(wording.plain(wording.place_line(place)), style="bold")
        details = (
            wording.other_name_line(place),
            wording.values_line(place),
            wording.measures_line(place),
            wording.tolerance_line(place),
            place.reason,
        )
        yield "WHERE", [title, *(_line(text) for text in details if text)]
    if result.causes:
        yield "WHY" if result.verdict is Verdict.DIVERGED else "CAUSES", _cause_lines(result)
    elif result.verdict is Verdict.DIVERGED:
        yield "WHY", [_line("no cause was proved from what this run holds")]
    if result.known_differences:
        yield "KNOWN", _listed([group.line for group in wording.known_groups(result.known_differences)])
    if "schedules" in result.compared:
        yield "SCHEDULE", [_line(str(result.compared["schedules"]))]
    if result.warnings:
        yield "WARNING", _listed(result.warnings)
    yield "NEXT", [_line(text) for text in wording.next_steps(result)]


def _error_lines(error: ErrorFacts) -> list[Text]:
    facts = (("side", error.side), ("phase", error.phase), ("step", error.step), ("signal", error.signal))
    where = ", ".join(f"{name} {value}" for name, value in facts if value is not None)
    lines = error.message.rstrip().splitlines()
    if len(lines) > _ERROR_START + _ERROR_END + 1:
        left_out = len(lines) - _ERROR_START - _ERROR_END
        lines = [*lines[:_ERROR_START], f"  ... {left_out} lines, in result.json", *lines[-_ERROR_END:]]
    return [*(_line(line) for line in lines), *([_line(f"({where})")] if where else [])]


def _cause_lines(result: Result) -> list[Text]:
    causes = sorted(result.causes, key=lambda cause: -cause.confidence)
    lines = []
    for position, cause in enumerate(causes[:_SHOWN_CAUSES], start=1):
        title = f"{position}. {wording.kind_words(cause.code)} ({wording.kind_words(cause.category.value)})"
        lines += [
            *([Text()] if position > 1 else []),
            Text.assemble((wording.plain(title), "bold"), f", confidence {wording.percent(cause.confidence)}"),
            _line(cause.evidence),
            Text.assemble(("Fix: ", "bold green"), wording.plain(cause.fix)),
        ]
    return [*lines, *_more(len(causes) - _SHOWN_CAUSES)]


def _listed(texts: Sequence[str]) -> list[Text]:
    return [*(_line(text) for text in texts[:_SHOWN_LINES]), *_more(len(texts) - _SHOWN_LINES)]


def _print_paths(console: Console, folder: Path | None) -> None:
    if folder is None:
        return
    console.print(f"run folder  {wording.plain(str(folder))}", soft_wrap=True)
    if (report := folder / "report.html").is_file():
        console.print(f"report      {wording.plain(str(report))}", soft_wrap=True)


def _line(text: str) -> Text:
    return Text(wording.plain(text))


def _more(count: int) -> list[Text]:
    return [Text(f"... and {count} more in the report", style="dim")] if count > 0 else []


class Progress:
    """A run's progress on standard error, as a context manager; may be called from several threads.

    On a terminal it is a live line with the rate of steps and the time left. Elsewhere it is a line a phase, and the
    workers' lines behind "[torch] ". With ``enabled`` False it is silent.
    """

    def __init__(self, enabled: bool, file: TextIO | None = None) -> None:
        self._console = _console(sys.stderr if file is None else file)
        self._enabled = enabled
        self._live = _LiveProgress(self._console) if enabled and self._console.is_terminal else None
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def phase(self, text: str) -> None:
        """Say what begins now."""
        if self._live is not None:
            self._live.begin(wording.plain(text))
        else:
            self._print(text)

    def step(
        self, step: int, total: int, torch_loss: float | None, paddle_loss: float | None, difference: float | None
    ) -> None:
        """Say that ``step`` (from 0) of ``total`` was compared; ``difference`` is that of the losses."""
        if self._live is not None:
            self._live.count(step, total, torch_loss, paddle_loss, difference)

    def worker_line(self, side: str, line: str) -> None:
        """Pass on a line that a worker printed."""
        self._print(f"[{side}] {line}")

    def _print(self, text: str) -> None:
        if self._enabled:
            with self._lock:
                self._console.print(Text(wording.plain(text).rstrip("\n")), soft_wrap=True)


class _LiveProgress(progress.Progress):
    """The live lines: phase, bar, rate and time left; below them the losses."""

    def __init__(self, console: Console) -> None:
        self._losses = Text()  # the superclass draws once while it is made
        self._greatest = 0.0
        super().__init__(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=20),
            progress.TextColumn("{task.fields[counted]}", markup=False),
            progress.TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._phase = self.add_task("", total=None, visible=False, counted="")

    def begin(self, text: str) -> None:
        """Start the phase ``text`` with an empty bar."""
        self._losses, self._greatest = Text(), 0.0
        self.remove_task(self._phase)
        self._phase = self.add_task(text, total=None, counted="")

    def count(
        self, step: int, total: int, torch_loss: float | None, paddle_loss: float | None, difference: float | None
    ) -> None:
        """Show the losses of a step that is done."""
        if difference is not None and not (difference <= self._greatest or math.isnan(self._greatest)):
            self._greatest = difference
        self._losses = Text(
            f"  loss: torch {wording.number(torch_loss)}, paddle {wording.number(paddle_loss)},"
            f" greatest difference {wording.number(self._greatest, 2)}"
        )
        self.update(self._phase, total=total, completed=step + 1, counted=f"{step + 1}/{total}{self._speed()}")

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the bar and, once there are any, the losses."""
        yield from super().get_renderables()
        if self._losses:
            yield self._losses

    def _speed(self) -> str:
        speed = next((task.speed for task in self.tasks if task.id == self._phase), None)
        return f", {speed:.1f} steps/s" if speed else ""
