"""Turns SIGINT, SIGTERM and SIGHUP into a flag that the run looks at; a second one ends at once.

SIGHUP stays ignored where it was: a run under nohup outlives its terminal.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Dict, Optional, Type

from stepalign.coordinator.processes.switchboard import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Installs its handlers while entered."""

    def __init__(self) -> None:
        self._asked: Optional[signal.Signals] = None
        self._before: Dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in _SIGNALS:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> Optional[signal.Signals]:
        """The signal that came, or None."""
        return self._asked

    def raise_if_asked(self) -> None:
        """Raise Interrupted if a signal came."""
        if self._asked is not None:
            raise Interrupted(f"interrupted by {self._asked.name}; what was collected until then is in the run folder")

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        if self._asked is not None:
            raise KeyboardInterrupt
        self._asked = signal.Signals(number)
