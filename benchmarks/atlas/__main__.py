"""``python -m benchmarks.atlas``: measures the declared pairings; writes docs/atlas.md, the numbers and the verdicts."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.atlas.inventory import Side, complaints, read_inventory
from benchmarks.atlas.kept_numbers import NUMBERS_FILE, Numbers, read_numbers, replaced, write_numbers
from benchmarks.atlas.measuring import RATE_STEPS, measure
from benchmarks.atlas.page import render
from benchmarks.atlas.verdicts import FLOAT32_BEYOND, agreement_of
from stepalign.coordinator.atlas.measured import MEASURED_FILE, SCHEMA, Measured
from stepalign.coordinator.atlas.pairings import PAIRINGS
from stepalign.coordinator.atlas.schedules import RATES
from stepalign.coordinator.environments import managed
from stepalign.coordinator.results.records import to_strict

PAGE = Path(__file__).parents[2] / "docs" / "atlas.md"


def main() -> int:
    """Run the command; 1 where a class has no row or a row does not fit the installed versions."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.atlas", description=__doc__)
    parser.add_argument("--only", metavar="WORDS", help="measure rows whose key has one of these words (a|b), and print them")
    parser.add_argument("--keep", action="store_true", help="with --only: put these rows in place of those measured last")
    parser.add_argument("--check", action="store_true", help="look for classes and arguments without a row, measure nothing")
    parser.add_argument("--render", action="store_true", help="write page and record anew from the numbers measured last")
    options = parser.parse_args()
    found = []
    sides: tuple[Side, Side] = ("torch", "paddle")
    for side in sides:
        found += complaints(side, read_inventory(side, managed.find(side, side, Path()).path), PAIRINGS)
    print("\n".join(found), file=sys.stderr)
    if found or options.check:
        return 1 if found else 0
    if options.render:
        return _write(read_numbers(NUMBERS_FILE, PAIRINGS))
    chosen = [pairing for pairing in PAIRINGS if _is_asked(options.only, pairing.key)]
    with tempfile.TemporaryDirectory(prefix="stepalign-atlas-") as logs:
        rows, facts = measure(chosen, Path(logs))
    numbers = Numbers(datetime.date.today().isoformat(), facts["torch"].version, facts["paddle"].version, tuple(rows))
    if options.only is not None and options.keep:
        numbers = replaced(read_numbers(NUMBERS_FILE, PAIRINGS), numbers)
    elif options.only is not None:
        print(render(rows, _measured(numbers), RATE_STEPS, RATES, FLOAT32_BEYOND))
        return 0
    write_numbers(NUMBERS_FILE, numbers)
    return _write(numbers)


def _is_asked(words: str | None, key: str) -> bool:
    return words is None or any(word in key for word in words.split("|"))


def _measured(numbers: Numbers) -> Measured:
    rows = {row.pairing.key: agreement_of(row) for row in numbers.rows}
    return Measured(SCHEMA, numbers.date, numbers.torch, numbers.paddle, rows)


def _write(numbers: Numbers) -> int:
    """Write the page and what the coordinator reads of it."""
    measured = _measured(numbers)
    PAGE.write_text(render(numbers.rows, measured, RATE_STEPS, RATES, FLOAT32_BEYOND), encoding="utf-8")
    record = to_strict(dataclasses.asdict(measured))
    MEASURED_FILE.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
