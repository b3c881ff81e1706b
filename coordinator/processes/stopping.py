"""When to end workers: ask, then SIGTERM, then SIGKILL, each after its time. How is in `worker_process`."""

from __future__ import annotations

import time
from typing import Iterable, List, Optional

from stepalign.coordinator.processes.switchboard import Switchboard
from stepalign.coordinator.processes.worker_process import WorkerProcess
from stepalign.protocol.errors import StepalignError
from stepalign.protocol.messages import Finish

TERM_S = 1.0


def stop_workers(workers: Iterable[WorkerProcess], switchboard: Optional[Switchboard], finish_s: float) -> None:
    """End all workers. With a ``switchboard`` each is first asked to finish and has ``finish_s`` seconds for it."""
    alive = [worker for worker in workers if worker.exit_code() is None]
    if switchboard is not None:
        for worker in alive:
            try:
                switchboard.send(worker.spec.role, Finish())
            except StepalignError:
                continue
        alive = _wait_for(alive, finish_s)
    for step in (WorkerProcess.terminate, WorkerProcess.kill):
        for worker in alive:
            step(worker)
        alive = _wait_for(alive, TERM_S)


def _wait_for(workers: List[WorkerProcess], timeout_s: float) -> List[WorkerProcess]:
    """Return the workers that still run after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    return [worker for worker in workers if not worker.wait(max(0.0, deadline - time.monotonic()))]
