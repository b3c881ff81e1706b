"""What a person sees in a terminal when a run has ended: verdict, where, why, what to do; then notes, steps, paths.

Guarantees: 80 columns are enough; a long run's steps are sampled; no terminal sequence is written to what is not a
terminal, nor passed on from a worker's text; colours follow NO_COLOR. `live` shows a run while it goes on.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepalign.coordinator.languages.translation import message, say
from stepalign.coordinator.report import wording
from stepalign.coordinator.report.consoles import open_console, wrap
from stepalign.coordinator.report.rows import (
    StepRow,
    around_divergence,
    chosen_steps,
    group_count,
    step_count,
    step_row,
)
from stepalign.coordinator.results.result import ErrorFacts, Result, Verdict

_MAX_ROWS = 10
_LABEL_WIDTH = 9
_SHOWN_CAUSES = 3
_SHOWN_LINES = 5
_ERROR_START, _ERROR_END = 4, 7
_FRAME_LINES = 2
_FRAME = re.compile(r'\s*File "[^"]+", line \d+')
_LIBRARY = re.compile(r'site-packages|dist-packages|[/\\]lib[/\\]python\d|[/\\]stepalign[/\\]|\.zip[/\\]|File "<')
_PATHS = ((message("report"), "report.html"), (message("table for the pull request"), "losses.md"))
_STYLES = {
    Verdict.ALIGNED: "bold green",
    Verdict.DIVERGED: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.FAILED: "bold red",
}


def print_verdict(
    result: Result, folder: Path | None, file: TextIO | None = None, rate_steps: Sequence[int] = ()
) -> None:
    """Print a run's end: verdict, where, why, what to do; what is known besides, a table of steps, the paths.

    ``file`` is standard output by default. A result of rates alone gets a table of rates at ``rate_steps``.
    """
    console = open_console(sys.stdout if file is None else file)
    for label, lines in _sections(result):
        _print_section(console, label, lines)
    _print_table(console, result, rate_steps)
    _print_paths(console, folder)


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
    losses = () if schedule_only else (say("torch loss"), say("paddle loss"), say("difference"))
    for heading in (say("step"), *losses, say("torch rate"), say("paddle rate"), say("relative")):
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
        console.print(say(f"rates: of {groups} groups, the one that is furthest apart at each step"), style="dim")
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
    wrapped = [part for line in lines for part in wrap(line, console, console.width - _LABEL_WIDTH - 1)]
    for position, part in enumerate(wrapped):
        part.rstrip()
        shown = label if position == 0 else ""
        start = Text.assemble((shown, "bold"), " " * (_LABEL_WIDTH - cell_len(shown)))
        console.print(start + part if part else Text(), soft_wrap=True)
    console.print()


def _sections(result: Result) -> Iterable[tuple[str, list[Text]]]:
    verdict = Text(wording.verdict_words(result.verdict).upper(), style=_STYLES[result.verdict])
    sides = f"{wording.side_line('torch', result.torch)}, {wording.side_line('paddle', result.paddle)}"
    headline = Text.assemble(verdict, f"{say(': ')}{wording.headline(result)}")
    yield say("VERDICT"), [headline, _line(wording.case_line(result)), _line(sides)]
    if result.error is not None:
        yield say("ERROR"), _error_lines(result.error)
    if result.first_divergence is not None:
        place = result.first_divergence
        title = Text(wording.plain(wording.place_line(place)), style="bold")
        yield say("WHERE"), [title, *map(_line, wording.place_details(place))]
    if result.regimes:
        yield say("REGIMES"), [_line(line) for line in wording.regime_lines(result)]
    if result.causes:
        yield say("WHY" if result.verdict is Verdict.DIVERGED else "CAUSES"), _cause_lines(result)
    elif result.verdict is Verdict.DIVERGED:
        yield say("WHY"), [_line(say("no cause was proved from what this run holds"))]
    yield say("NEXT"), [_line(text) for text in wording.next_steps(result)]
    if result.known_differences:
        yield say("KNOWN"), _listed([group.line for group in wording.known_groups(result.known_differences)])
    if hints := wording.noted(result):
        yield say("NOTED"), _listed([say("declared otherwise, which this run cannot show:"), *hints])
    if result.resumed is not None:
        yield say("RESUMED"), [_line(wording.resumed_line(result.resumed))]
    if "schedules" in result.compared:
        yield say("SCHEDULE"), [_line(say(str(result.compared["schedules"]), "causes"))]
    if result.warnings:
        yield say("WARNING"), _listed([say(warning, "causes") for warning in result.warnings])


def _error_lines(error: ErrorFacts) -> list[Text]:
    facts = (
        (message("side"), error.side),
        (message("phase"), error.phase),
        (message("step"), error.step),
        (message("signal"), error.signal),
    )
    where = ", ".join(f"{say(name)} {value}" for name, value in facts if value is not None)
    lines = _shortened(say(error.message.rstrip(), "errors").splitlines())
    return [*(_line(line) for line in lines), *([_line(f"({where})")] if where else [])]


def _shortened(lines: list[str]) -> list[str]:
    """Return the start and the end of a long message, and between them the last frame of the user's own code."""
    end = len(lines) - _ERROR_END
    if end <= _ERROR_START + 1:
        return lines
    frames = [number for number, line in enumerate(lines) if _FRAME.match(line)]
    own = [number for number in frames if not _LIBRARY.search(lines[number])]
    kept: list[str] = []
    if own and _ERROR_START <= own[-1] < end:
        later = [number for number in frames if number > own[-1]]
        kept = lines[own[-1] : min([end, own[-1] + _FRAME_LINES, *later])]
    before = own[-1] - _ERROR_START if kept else 0
    after = end - (own[-1] + len(kept) if kept else _ERROR_START)
    return [*lines[:_ERROR_START], *_left_out(before), *kept, *_left_out(after), *lines[end:]]


def _left_out(count: int) -> list[str]:
    return ["  " + say(f"... {count} lines, in result.json")] if count else []


def _cause_lines(result: Result) -> list[Text]:
    causes = sorted(result.causes, key=lambda cause: -cause.confidence)
    lines = []
    for position, cause in enumerate(causes[:_SHOWN_CAUSES], start=1):
        title = f"{position}. {wording.kind_words(cause.code)} ({wording.kind_words(cause.category.value)})"
        lines += [
            *([Text()] if position > 1 else []),
            Text.assemble((wording.plain(title), "bold"), say(f", confidence {wording.percent(cause.confidence)}")),
            _line(say(cause.evidence, "causes")),
            Text.assemble((say("Fix: "), "bold green"), wording.plain(say(cause.fix, "causes"))),
        ]
    return [*lines, *_more(len(causes) - _SHOWN_CAUSES)]


def _listed(texts: Sequence[str]) -> list[Text]:
    return [*(_line(text) for text in texts[:_SHOWN_LINES]), *_more(len(texts) - _SHOWN_LINES)]


def _print_paths(console: Console, folder: Path | None) -> None:
    if folder is None:
        return
    rows = [(say("run folder"), folder)]
    rows += [(say(label), folder / name) for label, name in _PATHS if (folder / name).is_file()]
    width = max(cell_len(label) for label, _ in rows)
    for label, path in rows:
        space = " " * (width + 2 - cell_len(label))
        console.print(f"{label}{space}{wording.plain(str(path))}", soft_wrap=True)


def _line(text: str) -> Text:
    return Text(wording.plain(text))


def _more(count: int) -> list[Text]:
    return [Text(say(f"... and {count} more in the report"), style="dim")] if count > 0 else []
