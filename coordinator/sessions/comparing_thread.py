"""What runs beside the steps of a drive: comparing pairs and keeping states, so that no worker waits for it."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Deque, Dict, Optional

from stepalign.coordinator.sessions.step_plan import Keeping, StepPair
from stepalign.protocol.messages import Checkpoint

_AT_ONCE_S = 0.002
"""A pair of small values is compared on the thread that listens if one of the last two took no longer: a worker that takes
the core meanwhile makes one of them seem long.
"""


class ComparingThread:
    """Compares pairs and keeps states in order, on one thread of its own; small pairs, where nothing waits, on the caller's.
    ``compared`` holds what is under way or has not been collected.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        compared: Deque["Future[None]"],
        on_pair: Callable[[StepPair], None],
        keeping: Optional[Keeping],
    ) -> None:
        self._pool = pool
        self._compared = compared
        self._on_pair = on_pair
        self._keeping = keeping
        self._kept: Deque["Future[None]"] = deque()
        self._took_s = (0.0, 0.0)

    def compare(self, pair: StepPair) -> None:
        """Have a pair compared; at once, where handing it over takes longer than comparing it."""
        if self._compared or self._kept or min(self._took_s) > _AT_ONCE_S or pair.has_tensors():
            self._compared.append(self._pool.submit(self._timed, pair))
        else:
            self._timed(pair)

    def _timed(self, pair: StepPair) -> None:
        started = time.monotonic()
        self._on_pair(pair)
        self._took_s = (self._took_s[1], time.monotonic() - started)

    def collect_kept(self) -> None:
        """Raise what keeping a state has raised."""
        while self._kept and self._kept[0].done():
            self._kept.popleft().result()

    def keep(self, step: int, states: Dict[str, Checkpoint]) -> None:
        """Have the states before ``step`` kept, once all steps before it are compared."""
        if self._keeping is not None:
            self._kept.append(self._pool.submit(self._keeping.keep, step, states))
