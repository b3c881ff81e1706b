"""Writes docs/faults.md from what was observed."""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import stepalign
from benchmarks.faults.cell import Cell, Observed
from benchmarks.machine import machine_facts

_MOST = 100
_MARK = "**!** "
_GROUPS = {
    "dies": ("A worker dies", "How it ends, and in which phase."),
    "hangs": ("A worker hangs", "Deadlines of 2 s, and 1 s to stop; then 1 s for the stacks, 1 s after SIGTERM, SIGKILL."),
    "lies": ("A worker lies", "A lie in numbers is a divergence, one in form ends the conversation."),
    "babbles": ("A worker is a nuisance", "What it does beside its work, and whether the run goes on."),
    "coordinator": ("The coordinator is ended", "While a worker is inside native code, unless said."),
    "machine": (
        "The machine refuses",
        "What is full, forbidden, narrow or odd. One environment made twice at once is tried in\n"
        "`tests/coordinator/environments/test_managed.py`: the second waits, and takes what the first has made.",
    ),
}
_INTRODUCTION = """\
# Faults

What a user sees when something goes wrong, observed, not promised: each row is one run of the command line with one
fault in it. The page is written by the command that runs them:

    python -m benchmarks.faults --write docs/faults.md
    python -m benchmarks.faults --again docs/faults.md          # the marked rows once more, on a quieter machine
    python -m benchmarks.faults --only 'dies/segfault/*' --show

Nothing may be left behind: processes (daemons that left their group too), sockets, files in the temporary folder,
shared memory. A row that differs from what it must be, or leaves anything, is marked **!** and makes the command end
with 1. `tests/test_faults.py` runs the rows marked *t*. What is promised, and how it is done, is in
[isolation.md](isolation.md) and [security.md](security.md).

- **workers**: `double` is a worker that speaks the protocol with numpy alone; `torch` or `paddle` names the side with
  the fault in a run of both real frameworks; `real`: both frameworks, no worker's fault.
- **exit**: the command's exit code, a signal where it was killed. For a killed command verdict and message are those of
  `stepalign report RUN` afterwards.
- **steps**: the finished steps that the run folder holds, of 6. A worker that hangs or dies in step 3 has finished
  three; how many came in pairs depends on the other side.
- **s**: seconds from the fault to the end of the command, report.html and all other files written. **gone**: until the
  last of its processes was gone. Where the machine was shared (its load is below) they are upper bounds.

The kernel's out-of-memory killer itself is in no row: it takes a memory cgroup of one's own. In the rows "SIGKILL from outside"
a worker that holds memory, inside native code, is killed as that killer does it.

"""


def row(seen: Observed) -> str:
    """Return one observation in a line of the terminal."""
    if seen.skipped:
        return f"{seen.cell.name}: skipped, {seen.skipped}"
    what = f"{seen.exit_code}, {seen.seconds:.2f} s, {seen.verdict or 'no verdict'}, {seen.steps} steps"
    return f"{seen.cell.name}: {what}: {_cut(seen.message)}"


def write_page(path: Path, seen: Sequence[Observed], minutes: float, cells: int) -> None:
    """Write the page; where fewer than all ``cells`` were run, it says how many were not."""
    lines = [_INTRODUCTION + _measured(seen, minutes, cells)]
    for group, members in groupby(seen, key=lambda item: item.cell.group):
        title, text = _GROUPS[group]
        lines += [f"## {title}", "", text, "", *_table(list(members)), ""]
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


@functools.cache
def _facts() -> dict[str, str]:
    """Return the machine's facts as they are at the start."""
    return machine_facts()


def _measured(seen: Sequence[Observed], minutes: float, cells: int) -> str:
    facts = _facts()
    wrong, skipped = sum(bool(item.problems) for item in seen), sum(bool(item.skipped) for item in seen)
    named = ("processor", "cores", "load", "kernel", "coordinator", "torch", "paddle")
    told = "; ".join(f"{name}: {facts[name]}" for name in named)
    count = f"{len(seen)} rows in {minutes:.1f} minutes, {skipped} skipped, {wrong} not as they must be."
    if len(seen) < cells:
        count += f" Of {cells} rows {cells - len(seen)} were not run, and are not here."
    return f"Written on {datetime.date.today().isoformat()} by stepalign {stepalign.__version__}. {count}\n{told}.\n"


def _table(seen: Sequence[Observed]) -> Iterator[str]:
    """Yield a table; the first column is empty where it repeats the row above."""
    yield "| fault | phase | workers | exit | verdict | steps | s | gone | what is said first |"
    yield "|---|---|---|---|---|---|---|---|---|"
    above = ""
    for item in seen:
        cell = item.cell
        fault = "" if cell.fault == above else _escaped(cell.fault)
        above = cell.fault
        where = f"{cell.phase} | {cell.name.rpartition('/')[2]}{' *t*' if cell.quick else ''}"
        if item.skipped:
            yield f"| {fault} | {where} | | | | | | skipped: {item.skipped} |"
            continue
        yield f"| {_MARK if item.problems else ''}{fault} | {where} | {_seen(item)}"


def _seen(item: Observed) -> str:
    """Return the columns that say what was seen."""
    return (
        f"{item.exit_code} | {item.verdict or 'none'} | {item.steps} | {item.seconds:.1f} | {item.gone_s:.1f} | "
        f"{_escaped(_cut(_without_folders(item.message)))} |"
    )


def run_again(path: Path, chosen: Sequence[Cell], run: Callable[[Cell], Observed]) -> Iterator[Observed]:
    """Run the marked rows of a whole page once more, and put what is seen in their place. Raises ValueError if the page
    does not have a row for each of ``chosen``.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [number for number, line in enumerate(lines) if line.startswith("| ") and not line.startswith("| fault |")]
    if len(rows) != len(chosen):
        raise ValueError(f"{path} has {len(rows)} rows, there are {len(chosen)} cells: write it anew")
    for number, cell in zip(rows, chosen):
        if not lines[number].startswith(f"| {_MARK}"):
            continue
        item = run(cell)
        yield item
        fault, phase, workers = lines[number].removeprefix(f"| {_MARK}").split(" | ")[:3]
        lines[number] = f"| {_MARK if item.problems else ''}{fault} | {phase} | {workers} | {_seen(item)}"
    wrong = sum(line.startswith(f"| {_MARK}") for line in lines)
    text = re.sub(r"[0-9]+ not as they must be", f"{wrong} not as they must be", "\n".join(lines))
    path.write_text(text + "\n", encoding="utf-8")


def _without_folders(text: str) -> str:
    """Return a message without the folders of this very run."""
    return " ".join(word.rpartition("/saf-")[2].partition("/")[2] if "/saf-" in word else word for word in text.split(" "))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "'")


def _cut(text: str) -> str:
    return text if len(text) <= _MOST else text[: _MOST - 3] + "..."
