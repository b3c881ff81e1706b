"""``python -m benchmarks``: how fast stepalign is, as ratios against baselines of the same run. Nothing here passes or
fails.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks import checkpoint_rows, lockstep_rows, long_rows, single_rows, step4_rows
from benchmarks.machine import machine_facts
from benchmarks.row import Options, Row

ROWS: tuple[Row, ...] = (
    *lockstep_rows.ROWS[:4], *single_rows.ROWS, *lockstep_rows.ROWS[4:], *long_rows.ROWS, *checkpoint_rows.ROWS, *step4_rows.ROWS
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the rows that were asked for and print them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="GLOB", help="rows by name; the only way to those that take long")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="optimizer steps of the lockstep rows")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds of each row that starts processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write facts and all figures as JSON")
    parser.add_argument("--list", action="store_true", help="name the rows; measure nothing")
    chosen = parser.parse_args(arguments)
    if chosen.steps < 10 or chosen.repeats < 1:
        parser.error("expected at least 10 steps and 1 repeat")
    rows = [row for row in ROWS if (fnmatch.fnmatch(row.name, chosen.only) if chosen.only else not row.optional)]
    if chosen.list:
        print("\n".join(f"{row.name:20} {row.what}" + (" (on request)" if row.optional else "") for row in ROWS))
        return 0
    if not rows:
        parser.error(f"no row fits {chosen.only!r}; --list names them")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as for users: no process compiles stepalign's modules at each start
    facts = machine_facts()
    print("\n".join(f"{name:12} {text}" for name, text in facts.items()), end="\n\n", flush=True)
    found = []
    for row in rows:
        load = os.getloadavg()[0]
        measured = row.measure(Options(chosen.steps, chosen.repeats))
        shown = "" if measured.ratio is None else f"{measured.ratio:.2f}"
        print(f"{row.name:20} {shown:>7}  goal {row.goal:8} {measured.text}; load {load:.1f}", flush=True)
        found.append({
            "name": row.name, "what": row.what, "baseline": row.baseline, "goal": row.goal, "ratio": measured.ratio,
            "text": measured.text, "load": load, **measured.detail,
        })  # fmt: skip
    if chosen.json:
        chosen.json.write_text(json.dumps({"machine": facts, "rows": found}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
