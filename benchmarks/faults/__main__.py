"""``python -m benchmarks.faults``: provoke every fault in every phase, and write down what a user sees of it.

The exit code is 1 if a cell shows another exit code, message or verdict than it must, takes too long, or leaves anything
behind.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.faults.catalogue import select
from benchmarks.faults.cell import Cell, Observed
from benchmarks.faults.page import row, run_again, write_page
from benchmarks.faults.running import run_cell

_WRITTEN_EVERY = 10
"""Rows after which the page is written: an interruption leaves what was observed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--only", default="*", metavar="GLOB", help="only cells whose name fits")
    parser.add_argument("--quick", action="store_true", help="only the cells that the tests run")
    parser.add_argument("--list", action="store_true", help="name the cells; run nothing")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs at a time (each has three processes)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page (docs/faults.md)")
    parser.add_argument("--again", type=Path, metavar="FILE", help="run the marked rows of that page again")
    parser.add_argument("--show", action="store_true", help="print all that the commands printed")
    options = parser.parse_args(arguments)
    chosen = select(options.only, options.quick)
    if not chosen:
        parser.error(f"no cell fits {options.only!r}; --list names them")
    if options.list:
        print("\n".join(cell.name for cell in chosen))
        return 0
    if options.again:
        again = list(run_again(options.again, select(), _run))
        print("\n".join(f"{'!!' if observed.problems else 'ok'} {row(observed)}" for observed in again))
        return 1 if any(observed.problems for observed in again) else 0
    started = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        seen = []
        for observed in pool.map(_run, chosen):
            seen.append(observed)
            print(f"{'!!' if observed.problems else 'ok'} {row(observed)}", flush=True)
            for problem in observed.problems:
                print(f"   {problem}")
            if options.show:
                print(observed.output)
            if options.write and len(seen) % _WRITTEN_EVERY == 0:
                write_page(options.write, seen, (time.monotonic() - started) / 60, len(select()))
    wrong = [observed for observed in seen if observed.problems]
    minutes = (time.monotonic() - started) / 60
    skipped = sum(bool(observed.skipped) for observed in seen)
    print(f"{len(seen)} cells in {minutes:.1f} min, {skipped} skipped, {len(wrong)} not as they must be")
    if options.write:
        write_page(options.write, seen, minutes, len(select()))
    return 1 if wrong else 0


def _run(cell: Cell) -> Observed:
    if cell.needs == "root" and os.getuid():
        return Observed(cell, None, "", 0.0, 0.0, "", 0, None, (), (), skipped="needs root")
    return run_cell(cell)


if __name__ == "__main__":
    sys.exit(main())
