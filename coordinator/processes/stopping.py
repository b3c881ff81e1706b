"""When to end workers: ask, then SIGTERM, then SIGKILL, each after its time. How is in `worker_process`."""

from __future__ import annotations

import time
from operator import methodcaller
from typing import Callable, Iterable, List, Optional

from stepalign.coordinator.processes.switchboard import Interrupted, Switchboard
from stepalign.coordinator.processes.worker import Worker
from stepalign.protocol.errors import StepalignError
from stepalign.protocol.messages import Finish

TERM_S = 1.0
_TICK_S = 0.1


def stop_workers(
    workers: Iterable[Worker],
    switchboard: Optional[Switchboard],
    finish_s: float,
    on_tick: Callable[[], None] = lambda: None,
) -> None:
    """End all workers. With a ``switchboard`` each is first asked to finish and has ``finish_s`` seconds for it.

    What ``on_tick`` raises meanwhile, an interruption, ends the asking; it is raised once all have ended.
    """
    alive = [worker for worker in workers if worker.exit_code() is None]
    if switchboard is not None:
        for worker in alive:
            try:
                switchboard.send(worker.spec.role, Finish())
            except StepalignError:
                continue
        try:
            alive = _wait_for(alive, finish_s, on_tick)
        except Interrupted:
            stop_workers(alive, None, 0.0)
            raise
    for end in (methodcaller("terminate"), methodcaller("kill")):
        for worker in alive:
            end(worker)
        alive = _wait_for(alive, TERM_S)


def _wait_for(
    workers: List[Worker], timeout_s: float, on_tick: Callable[[], None] = lambda: None
) -> List[Worker]:
    """Return the workers that still run after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    running = list(workers)
    while running:
        left_s = deadline - time.monotonic()
        running = [worker for worker in running if not worker.wait(max(0.0, min(left_s, _TICK_S)))]
        if left_s <= 0:
            break
        on_tick()
    return running
