"""A long case run by stepalign in a process of its own, what each process holds counted on the way: printed as JSON.

Run as ``python -m benchmarks.loops.long_run CASE_FOLDER OUT``. Counted are the coordinator, each worker and its two
guards: bytes of memory of their own (``RssAnon``: the resident set without what is mapped from files or shared), bytes of
shared memory that they map, threads, open descriptors; and the files in the run folder and in TMPDIR. ``seconds`` is the
monotonic clock.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks.loops.lockstep import children, worker_name
from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.comparison.comparison import StepJudgement
from stepalign.coordinator.running.run import run_case
from stepalign.coordinator.running.run_state import Watcher
from stepalign.coordinator.sessions.step_plan import StepPair

FIRST_SAMPLE = 1000
SAMPLES = 100


def held_by(pid: int | str) -> dict[str, int]:
    """Return what a process holds: bytes of its own memory and of shared memory, threads, open descriptors."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return {
        "memory_bytes": int(status["RssAnon"].split()[0]) << 10,
        "shared_bytes": int(status["RssShmem"].split()[0]) << 10,
        "threads": int(status["Threads"]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
    }


def processes() -> dict[str, int | str]:
    """Return this process, the guards that it started and their workers, by name."""
    found: dict[str, int | str] = {"coordinator": "self"}
    for outer in children("self"):
        for guard in children(outer):
            for worker in children(guard):
                name = worker_name(worker)
                found.update({f"{name} outer guard": outer, f"{name} guard": guard, name: worker})
    return found


def count_files(*folders: Path) -> int:
    """Return how many files and folders lie in these folders, at any depth."""
    return sum(len(folders) + len(files) for top in folders for _, folders, files in os.walk(top))


def main(folder: Path, out: Path) -> int:
    """Run the case and print what was counted."""
    samples: list[dict[str, Any]] = []
    case = load_case(folder)
    every = max(1, case.steps // SAMPLES)
    first = min(FIRST_SAMPLE, case.steps // 10)
    temporary = Path(os.environ["TMPDIR"])

    def step(pair: StepPair, judgement: StepJudgement) -> None:
        number = pair.step + 1
        if number == first or (number > first and number % every == 0) or number == case.steps:
            held = {name: held_by(pid) for name, pid in processes().items()}
            samples.append({"step": number, "seconds": time.monotonic(), "held": held, "files": count_files(out, temporary)})

    result, _ = run_case(case, out, Watcher(step=step, own_process=True))
    size_bytes = {path.name: path.stat().st_size for path in out.iterdir() if path.is_file()}
    after = {"held": held_by("self"), "children": len(children("self")), "files": count_files(temporary)}
    print(
        json.dumps(
            {
                "verdict": result.verdict.value,
                "samples": samples,
                "after": after,
                "ended": time.monotonic(),
                "size_bytes": size_bytes,
                "warnings": list(result.warnings),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
