"""The phase a worker is in, readable from outside even after it was killed: a small file mapped by both sides."""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple, Optional

SIZE_BYTES = 64
_LAYOUT = struct.Struct("<q16s")


class Status(NamedTuple):
    """Where a worker is: the step it works on (None outside steps) and the phase."""

    step: Optional[int]
    phase: str


class StatusWriter:
    """The worker's end."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._page = mmap.mmap(file.fileno(), SIZE_BYTES)
        self.step: Optional[int] = None
        self.phase = "start"

    def enter(self, phase: str, step: Optional[int] = None) -> None:
        """Note that ``phase`` begins; within a step, the step stays as it was."""
        self.phase = phase
        if step is not None:
            self.step = step
        _LAYOUT.pack_into(self._page, 0, -1 if self.step is None else self.step, phase.encode()[:16])

    def leave_step(self) -> None:
        """Note that no step is under way."""
        self.step = None
        self.enter("wait")


def create_status(path: str) -> None:
    """Make the file before the worker starts."""
    with open(path, "wb") as file:
        file.write(_LAYOUT.pack(-1, b"start").ljust(SIZE_BYTES, b"\0"))


def read_status(path: str) -> Status:
    """Return what the worker noted last."""
    with open(path, "rb") as file:
        step, phase = _LAYOUT.unpack(file.read(_LAYOUT.size))
    return Status(None if step < 0 else step, phase.rstrip(b"\0").decode("ascii", "replace"))
