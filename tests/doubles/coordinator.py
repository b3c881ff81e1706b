"""A coordinator for its own death: starts one double, prints its pid and its guard's once it is where it should be, and
waits."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from stepalign.coordinator.processes.switchboard import Switchboard
from stepalign.coordinator.processes.worker_process import WorkerProcess, WorkerSpec


def main(fault: str, note: str, folder: str) -> None:
    private = Path(folder)
    board = Switchboard(private, lambda: None)
    spec = WorkerSpec(
        "torch",
        "torch",
        Path(sys.executable),
        Path(note).with_suffix(".log"),
        {"STEPALIGN_DOUBLE": fault, "STEPALIGN_DOUBLE_NOTE": note},
    )
    worker = WorkerProcess(spec, Path(__file__).with_name("numpy_worker.py"), board.endpoint, private)
    board.add(worker)
    while not Path(note).exists() and worker.exit_code() is None:
        board.poll(0.05)
    print(worker.pid, worker.process.pid, flush=True)
    time.sleep(1000)


if __name__ == "__main__":
    main(*sys.argv[1:])
