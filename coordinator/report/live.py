"""A run while it goes on, on standard error: both workers' states, losses, rates, the greatest difference, time left.

Guarantees: on a terminal the view is drawn `DRAWS_A_SECOND` times a second by a thread of its own, from a snapshot; a
step costs one assignment, however many there are. Elsewhere nothing moves: a line a phase, and the workers' lines.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from stepalign.coordinator.comparison.comparison import Comparison, nearness
from stepalign.coordinator.languages.translation import message, say
from stepalign.coordinator.report import wording
from stepalign.coordinator.report.consoles import open_console
from stepalign.protocol.status import Status

DRAWS_A_SECOND = 4
_RATE_WINDOW_S = 15.0
_BAR_WIDTH = 24
_STATES = {
    "start": message("starting"),
    "import": message("importing"),
    "build": message("building"),
    "weights": message("exchanging weights"),
    "rates": message("reading rates"),
    "batch": message("reading the batch"),
    "forward": message("forward"),
    "backward": message("backward"),
    "after_backward": message("after backward"),
    "update": message("update"),
    "collect": message("collecting tensors"),
    "schedule": message("stepping the schedule"),
    "wait": message("waiting"),
}
"""A worker's phases in words; others are shown as they are called."""


class Snapshot(NamedTuple):
    """What the view knows of the newest step that was compared. Losses and rates are torch's, then paddle's."""

    step: int
    total: int
    losses: tuple[float, float]
    rates: tuple[Sequence[float], Sequence[float]]


class LiveView:
    """The view, as a context manager; may be called from several threads. With ``enabled`` False it is silent."""

    def __init__(self, enabled: bool, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = open_console(sys.stderr if file is None else file)
        self._enabled = enabled
        self._clock = clock
        self._lock = threading.Lock()
        self._phase, self._began_s = "", clock()
        self._newest: Snapshot | None = None
        self._worst: Mapping[str, Comparison] = {}
        self._states: Callable[[], Mapping[str, Status]] = dict
        self._progress: deque[tuple[float, int]] = deque()
        self._spinner = Spinner("dots")
        self._live = (
            Live(
                get_renderable=self._draw,
                console=self._console,
                refresh_per_second=DRAWS_A_SECOND,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            if enabled and self._console.is_terminal
            else None
        )

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def phase(self, text: str) -> None:
        """Say what begins now."""
        self._phase, self._began_s, self._newest = text, self._clock(), None
        self._progress.clear()
        if self._live is None:
            self._print(say(text, "causes"))

    def step(
        self,
        step: int,
        total: int,
        losses: tuple[float, float],
        rates: tuple[Sequence[float], Sequence[float]] = ((), ()),
    ) -> None:
        """Say that ``step`` (from 0) of ``total`` was compared."""
        self._newest = Snapshot(step, total, losses, rates)

    def follow_workers(self, states: Callable[[], Mapping[str, Status]]) -> None:
        """Show each worker's state as ``states`` gives it, by role; it is called from the drawing thread."""
        self._states = states

    def follow_worst(self, worst: Mapping[str, Comparison]) -> None:
        """Show the greatest difference of ``worst``, a map by kind that grows as steps are compared."""
        self._worst = worst

    def worker_line(self, side: str, line: str) -> None:
        """Pass on a line that a worker printed."""
        self._print(f"[{side}] {line}")

    def _print(self, text: str) -> None:
        if self._enabled:
            with self._lock:
                self._console.print(Text(wording.plain(text).rstrip("\n")), soft_wrap=True)

    def _draw(self) -> RenderableType:
        newest = self._newest
        parts: list[RenderableType] = [self._head(newest), *self._workers(newest)]
        if newest is not None:
            parts += _greatest(self._worst)
        return Group(*parts)

    def _head(self, newest: Snapshot | None) -> RenderableType:
        now = self._clock()
        line = Table.grid(padding=(0, 1))
        phase = Text(wording.plain(say(self._phase, "causes")), style="bold", no_wrap=True, overflow="ellipsis")
        if newest is None:
            line.add_row(self._spinner, phase, Text(_duration(now - self._began_s), style="dim"))
            return line
        done = newest.step + 1
        self._progress.append((now, done))
        while len(self._progress) > 2 and now - self._progress[0][0] > _RATE_WINDOW_S:
            self._progress.popleft()
        bar = ProgressBar(total=newest.total, completed=done, width=_BAR_WIDTH)
        line.add_row(self._spinner, phase, bar, Text(f"{done}/{newest.total}{self._speed(newest.total - done)}"))
        return line

    def _speed(self, left: int) -> str:
        (first_s, first), (last_s, last) = self._progress[0], self._progress[-1]
        if last <= first or last_s <= first_s:
            return ""
        rate = (last - first) / (last_s - first_s)
        return ", " + say(f"{rate:.3g} steps/s, {_duration(left / rate)} left")

    def _workers(self, newest: Snapshot | None) -> list[RenderableType]:
        states = self._states()
        lines: list[RenderableType] = []
        for number, (role, status) in enumerate(states.items()):
            line = Text.assemble((f"  {role:<8}", "dim"), f"{state_words(status):<28}")
            if newest is not None and number < 2:
                rates = newest.rates[number]
                line.append(f"{say('loss')} {wording.number(newest.losses[number], 7):<13}")
                if rates:
                    line.append(f"{say('rate')} {wording.number(rates[0], 5)}")
                    line.append(f" +{len(rates) - 1}" if len(rates) > 1 else "")
            line.no_wrap, line.overflow = True, "ellipsis"
            lines.append(line)
        return lines


def state_words(status: Status) -> str:
    """Return where a worker is: ``importing``, ``step 12, forward``."""
    words = say(_STATES.get(status.phase, status.phase.replace("_", " ")))
    return words if status.step is None else say(f"step {status.step}, {words}")


def _greatest(worst: Mapping[str, Comparison]) -> list[RenderableType]:
    """Return the line of what is furthest apart; what a rule of its own explains beyond its tolerance is left out."""
    ratios = {item: _ratio(item) for item in list(worst.values())}
    told = [item for item, ratio in ratios.items() if not item.passed or ratio <= 1]
    if not told:
        return []
    item = max(told, key=nearness)
    name = "" if item.name in ("", item.kind) else f" {item.name}"
    place = f"{wording.kind_words(item.kind)}{name}"
    text = say(f"furthest apart so far: step {item.step}, {place}, {wording.number(ratios[item], 3)} of the tolerance")
    line = Text(f"  {wording.plain(text)}", style="" if item.passed else "bold red")
    line.no_wrap, line.overflow = True, "ellipsis"
    return [line]


def _ratio(item: Comparison) -> float:
    """Compute difference / allowed; infinite where it cannot be measured."""
    measures = item.measures
    if measures is None:
        return math.inf
    allowed = item.atol + item.rtol * abs(measures.reference)
    return measures.max_abs / allowed if allowed else math.inf if measures.max_abs else 0.0


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
