"""How fast a worker steps, and so how many steps to ask for by one message: as many as take no longer than can be waited for.

A message and the wakeups that come with it cost about as much as a millisecond's step; steps of more than half of
`TOGETHER_S` are asked for one by one.
"""

from __future__ import annotations

from collections import deque
from typing import Deque, Tuple

TOGETHER_S = 0.03
"""How long steps that are asked for together may take."""

MAX_TOGETHER = 64


class Pace:
    """One worker's pace, by the last message that was answered in full: wall time, and so whatever else holds it up.

    ``together`` is how many steps to ask for by the next message: one at first, and no more than twice as many as by that one.
    """

    def __init__(self) -> None:
        self._under_way: Deque[Tuple[int, int]] = deque()
        self._ends: Deque[int] = deque()
        self._began_s = 0.0
        self.together = 1

    def asked(self, first: int, count: int, now_s: float) -> None:
        """Note that steps ``first`` to ``first + count`` (exclusive) were asked for."""
        if not self._under_way:
            self._began_s = now_s
        self._under_way.append((first + count, count))
        self._ends.append(first + count)

    @property
    def unanswered(self) -> int:
        """How many messages were not answered in full: in messages, as ``together`` changes while they are under way."""
        return len(self._under_way)

    def ahead_of(self, step: int) -> int:
        """Return how many messages ask for steps from ``step`` on; it does not go back from one call to the next."""
        while self._ends and self._ends[0] <= step:
            self._ends.popleft()
        return len(self._ends)

    def answered(self, steps: int, now_s: float) -> None:
        """Note that all steps before step ``steps`` were answered."""
        if self._under_way and steps == self._under_way[0][0]:
            count = self._under_way.popleft()[1]
            step_s = (now_s - self._began_s) / count
            self._began_s = now_s
            self.together = max(1, min(2 * count, int(TOGETHER_S / max(step_s, TOGETHER_S / MAX_TOGETHER))))
