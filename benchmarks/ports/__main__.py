"""``python -m benchmarks.ports``: run every port through the command line and count what stepalign got right.

The exit code is 1 if anything differs from what a port expects: a verdict, a place, a cause, a known difference.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.ports.catalogue import select
from benchmarks.ports.judging import Judgement, judge, summary, table, totals
from benchmarks.ports.port import Port
from benchmarks.ports.writing import write_case

RUN_LIMIT_S = 900.0
MESSAGE_LIMIT = 200


def run_port(port: Port, folder: Path) -> Judgement:
    """Write the port's case, run it in processes of its own, and judge what it said."""
    case, out = write_case(port, folder / port.name / "case"), folder / port.name / "run"
    command = [sys.executable, "-m", "stepalign.coordinator.cli", "run", str(case), "--json", "--out", str(out)]
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_LIMIT_S, check=False)
        exit_code, message = done.returncode, done.stderr
    except subprocess.TimeoutExpired:
        exit_code, message = -1, f"no verdict within {RUN_LIMIT_S:.0f} s"
    elapsed_s = time.monotonic() - started
    lines = message.strip().splitlines()
    return judge(port, exit_code, read_result(out), lines[-1][:MESSAGE_LIMIT] if lines else "", elapsed_s)


def read_result(out: Path) -> dict[str, Any] | None:
    """Return the run folder's result.json, None if there is none."""
    path = out / "result.json"
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def run_ports(ports: Sequence[Port], folder: Path, jobs: int) -> list[Judgement]:
    """Run the ports, ``jobs`` at a time, and return their judgements in the order given."""
    judgements = []
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for judgement in pool.map(partial(run_port, folder=folder), ports):
            print(table([judgement]), file=sys.stderr, flush=True)
            judgements.append(judgement)
    return judgements


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ports", description="run the suite of ports")
    parser.add_argument("--quick", action="store_true", help="only the ports marked quick")
    parser.add_argument("--only", default="*", metavar="GLOB", help="only the ports whose name fits")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write judgements and totals as JSON")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (each has three processes)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep cases and run folders in an empty folder")
    parser.add_argument("--list", action="store_true", help="name the ports and what is expected of them; run nothing")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs: expected at least 1, got {options.jobs}")
    if options.keep and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"--keep: {options.keep} is not empty")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite and return the exit code."""
    options = parse(arguments)
    ports = select(options.only, options.quick)
    if not ports:
        print(f"no port fits {options.only!r}", file=sys.stderr)
        return 2
    if options.list:
        for port in ports:
            expected = port.expected
            place = f"{'/'.join(expected.kinds)} step {'any' if expected.step is None else expected.step}"
            what = f"{'/'.join(expected.categories)}; {place}" if port.faulty else ""
            print(f"{port.name:42} {port.family:11} {'/'.join(expected.verdicts):20} {what}")
        return 0
    with tempfile.TemporaryDirectory(prefix="stepalign-ports-") as scratch:
        judgements = run_ports(ports, options.keep or Path(scratch), options.jobs)
    counts = totals(judgements)
    print(table(judgements))
    print()
    print(summary(counts))
    if options.json:
        report = {"totals": counts, "ports": [asdict(judgement) for judgement in judgements]}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if counts["unexpected"] else 0


if __name__ == "__main__":
    sys.exit(main())
