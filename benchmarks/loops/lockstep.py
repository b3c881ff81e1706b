"""A case run by stepalign in a process of its own, timed from inside: prints its times as JSON.

Run as ``python -m benchmarks.loops.lockstep CASE_FOLDER OUT [SHARE]``; SHARE is the part of the time that keeping the state
may take. Times are of the monotonic clock; ``cpu`` holds, at the end of each step, the CPU seconds of this process and of
each worker so far, ``rss_bytes`` this process's memory, ``checkpoints`` the steps whose state was kept.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.comparison.comparison import StepJudgement
from stepalign.coordinator.running import checkpoints
from stepalign.coordinator.running.run import run_case
from stepalign.coordinator.running.run_state import Watcher
from stepalign.coordinator.sessions.step_plan import StepPair

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the CPU seconds, user and system, of a running process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_bytes(which: str = "VmRSS") -> int:
    """Return the resident memory of this process, shared pages included; ``VmHWM``: at most so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(which))) << 10


def workers() -> list[int]:
    """Return the workers that run: each is the child of its guard, whose own guard this process started."""
    guards = [guard for outer in children("self") for guard in children(outer)]
    return [worker for guard in guards for worker in children(guard)]


def children(pid: int | str) -> list[int]:
    """Return the processes that a running process started and that have not ended."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text(encoding="ascii").split()]


def main(folder: Path, out: Path, share: float | None = None) -> int:
    """Run the case and print what was measured; with ``share``, of checkpoints too."""
    if share is not None:
        checkpoints.MOST_OF_TIME = share
    ends: list[float] = []
    cpu: list[dict[str, float]] = []
    memory: list[int] = []
    peaks: list[int] = []
    phases: dict[str, float] = {}
    kept: dict[int, int] = {}
    every = 1
    also: frozenset[int] = frozenset()

    def phase(text: str) -> None:
        phases[text.split()[0]] = time.monotonic()

    def step(pair: StepPair, judgement: StepJudgement) -> None:
        ends.append(time.monotonic())
        if pair.step % every == 0 or pair.step in also:
            found = {"coordinator": time.process_time()}
            found.update((worker_name(pid), cpu_s(pid)) for pid in workers())
            cpu.append({"step": float(pair.step), **found})
            memory.append(rss_bytes())
            peaks.append(rss_bytes("VmHWM"))
        for number in checkpoints.kept_steps(out) if share is not None else ():
            if number not in kept:
                files = (out / checkpoints.FOLDER_NAME / str(number)).iterdir()
                kept[number] = sum(file.stat().st_size for file in files)

    case = load_case(folder)
    every = max(1, case.steps // 20)
    also = frozenset((1, 10, case.steps - 1))
    result, _ = run_case(case, out, Watcher(phase=phase, step=step, own_process=True))
    print(
        json.dumps(
            {
                "verdict": result.verdict.value,
                "phases": phases,
                "ends": ends,
                "cpu": cpu,
                "rss_bytes": memory,
                "peak_rss_bytes": max(peaks, default=0),
                "checkpoints": sorted(kept),
                "checkpoint_bytes": max(kept.values(), default=0),
                "ended": time.monotonic(),
            }
        )
    )
    return 0


def worker_name(pid: int) -> str:
    """Return the role in a worker's environment."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return str(pid)
    return next((item.partition(b"=")[2].decode() for item in text if item.startswith(b"STEPALIGN_ROLE=")), str(pid))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *map(float, sys.argv[3:])))
