"""``python -m benchmarks.layers``: measure every pair of the table of layers; fails where the table is not borne out."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.layers.cases import CASES
from benchmarks.layers.judging import Row, complaints, describe
from benchmarks.layers.measuring import DTYPES, Bench, Measured
from benchmarks.layers.page import page
from benchmarks.layers.process import FrameworkProcess
from stepalign.coordinator.atlas.layers import FUNCTIONS, LAYERS
from stepalign.coordinator.atlas.layers.pair import LayerPair


def measure(pairs: Sequence[LayerPair], folder: Path, tell: bool = False) -> tuple[list[Row], dict[str, Any]]:
    """Measure the pairs; return the rows, and each framework's classes and version."""
    torch, paddle = FrameworkProcess("torch", folder), FrameworkProcess("paddle", folder)
    try:
        facts = {process.framework: process.ask("classes") for process in (torch, paddle)}
        bench, rows = Bench(torch, paddle), []
        for pair in pairs:
            rows.append(Row(pair, tuple(_measured(bench, pair))))
            if tell:
                for each in rows[-1].measured:
                    print(_line(pair, each), file=sys.stderr, flush=True)
        return rows, facts
    finally:
        torch.close()
        paddle.close()


def _measured(bench: Bench, pair: LayerPair) -> list[Measured]:
    found = []
    for case in CASES.get(pair.name, []):
        if not case.shows:
            found.append(bench.measure(pair, case, spelled_out=False))
        if not case.defaults_only:
            found.append(bench.measure(pair, case, spelled_out=True))
    return found


def _line(pair: LayerPair, each: Measured) -> str:
    errors = " ".join(f"{each.errors.get(dtype, float('nan')):8.1e}" for dtype in DTYPES)
    shows = f" shows {each.case.shows}" if each.case.shows else ""
    kind = "mapped " if each.spelled_out else "default"
    return f"{pair.name:28} {kind} {errors} {each.worst.get('float64', ''):24} {describe(each)}{shows} {each.problem}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print what does not fit, write the page, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layers", description="measure the table of layers")
    parser.add_argument("--only", default="*", metavar="GLOB", help="only the pairs whose name fits")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the page to write")
    parser.add_argument("--quiet", action="store_true", help="no line for each measurement")
    options = parser.parse_args(arguments)
    pairs = [pair for pair in (*LAYERS, *FUNCTIONS) if fnmatch.fnmatchcase(pair.name, options.only)]
    if not pairs:
        print(f"no pair fits {options.only!r}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="stepalign-layers-") as folder:
        rows, facts = measure(pairs, Path(folder), tell=not options.quiet)
    found = complaints(rows, facts)
    if options.only != "*":
        found = [each for each in found if "no row" not in each]
    for complaint in found:
        print(f"COMPLAINT {complaint}")
    if options.write:
        options.write.write_text(
            page(rows, {side: answer["version"] for side, answer in facts.items()}), encoding="utf-8"
        )
    print(f"{len(rows)} pairs, {sum(len(row.measured) for row in rows)} measurements, {len(found)} complaints")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
