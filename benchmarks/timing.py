"""Running what is measured: both bare loops at once, a case by stepalign, a command's CPU time."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.loops.cases import Model, write_case
from stepalign.coordinator.devices.cores import available_cores
from stepalign.coordinator.devices.placement import place
from stepalign.coordinator.environments import managed

SIDES = ("torch", "paddle")
BARE = Path(__file__).parent / "loops" / "bare.py"
WINDOW_S = 0.25
"""Many times what a message's steps take (`sessions.pace`)."""

WARM_UP = 0.1
"""The share of the steps that is not timed: caches, lazy initialisation, the first compilation of kernels."""


@dataclass(frozen=True)
class Stepping:
    """One run through the steps: seconds from the end of one step to the end of the next, in the median, and more."""

    step_s: float
    cpu_s: Mapping[str, float]
    detail: Mapping[str, Any]


def pythons() -> dict[str, Path]:
    """Return both sides' interpreters: STEPALIGN_TORCH_PYTHON and STEPALIGN_PADDLE_PYTHON, or the managed ones."""
    found = {}
    for side in SIDES:
        named = os.environ.get(f"STEPALIGN_{side.upper()}_PYTHON")
        found[side] = Path(named) if named else managed.find(side, side, Path.cwd()).path
    return found


def run_bare(model: Model, folder: Path, steps: int) -> tuple[dict[str, Stepping], dict[str, float]]:
    """Train both frameworks at once, each pinned as stepalign pins it; return each side's times, and the seconds from its
    start to the end of its first step.

    ``steps`` 0 builds only, -1 imports only: the seconds are those to their end.
    """
    placement = place(
        dict.fromkeys(SIDES, "cpu"), dict.fromkeys(SIDES, False), (), available_cores(), None
    )
    options = json.dumps(dict(model.options))
    started = time.monotonic()
    running = {}
    for side, python in pythons().items():
        device = placement.devices[side]
        running[side] = subprocess.Popen(
            [str(python), str(BARE), side, str(folder), str(steps), options],
            env={**os.environ, **device.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.sched_setaffinity(running[side].pid, device.cores)
    found, start_s = {}, {}
    for side, process in running.items():
        output, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"the bare {side} loop failed:\n{errors}")
        times = json.loads(output.splitlines()[-1])
        start_s[side] = times["ends"][0] - started if steps > 0 else times.get("built", times["imported"]) - started
        if steps > 2:
            skipped = skip(steps)
            cpu = (times["cpu"][-1] - times["cpu"][skipped]) / (steps - 1 - skipped)
            found[side] = Stepping(median_gap(times["ends"]), {side: cpu}, times)
    return found, start_s


def run_stepalign(folder: Path, out: Path, *options: str) -> tuple[Stepping, float]:
    """Run a case by stepalign; return its times, and the seconds from its start to the end of its first step, when both
    sides' results were judged. ``options`` are those of `benchmarks.loops.lockstep`.
    """
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.loops.lockstep", str(folder), str(out), *options],
        cwd=BARE.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"stepalign failed:\n{done.stderr}")
    times = json.loads(done.stdout.splitlines()[-1])
    if not times["ends"]:
        raise RuntimeError(f"stepalign ran no step: {times['verdict']}\n{done.stderr}")
    cpu, steps = times["cpu"], len(times["ends"])
    early = next((item for item in cpu if item["step"] >= skip(steps)), cpu[0])
    late = next((item for item in reversed(cpu) if len(item) == len(early)), cpu[-1])
    share = {
        name: (late[name] - early[name]) / max(late["step"] - early["step"], 1.0) for name in early if name != "step"
    }
    return Stepping(median_gap(times["ends"]), share, times), times["ends"][0] - started


def skip(steps: int) -> int:
    """Return how many steps are left out of the timing."""
    return max(1, int(steps * WARM_UP))


def median_gap(ends: Sequence[float]) -> float:
    """Return the mean of the middle half of the times from one step's end to the next: robust, and not blind to stalls.

    A burst of another process makes a few steps long; what stepalign itself costs in every step stays in. Short steps are
    judged several at once: they are timed by as many as take `WINDOW_S`.
    """
    timed = ends[skip(len(ends)) - 1 :]
    window = max(1, min(round(WINDOW_S / mean_gap(timed)), (len(timed) - 1) // 8))
    parts = timed[::window]
    gaps = sorted((after - before) / window for before, after in zip(parts, parts[1:]))
    quarter = len(gaps) // 4
    return statistics.fmean(gaps[quarter : len(gaps) - quarter] or gaps)


def mean_gap(ends: Sequence[float]) -> float:
    """Return the mean of the times from one step's end to the next, all of them: where some steps are meant to be longer."""
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def cpu_of(command: Sequence[str], repeats: int) -> float:
    """Return the least CPU seconds that a command took, its children's included."""
    best = float("inf")
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def wall_of(command: Sequence[str], **options: Any) -> float:
    """Return the wall seconds that a command took."""
    started = time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, **options)
    return time.monotonic() - started


def least(call: Callable[[], object], repeats: int = 7) -> float:
    """Return the least CPU seconds of this process that a call took."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        call()
        best = min(best, time.process_time() - started)
    return best


def with_case(model: Model, steps: int, kinds: tuple[str, ...] | None, call: Callable[[Path, Path], Any]) -> Any:
    """Call ``call(case folder, run folder)`` with a case that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="stepalign-benchmarks-") as scratch:
        return call(write_case(model, Path(scratch) / "case", steps, kinds, pythons()), Path(scratch) / "out")
