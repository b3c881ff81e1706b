"""The phase a worker is in, readable from outside even after it was killed: a small file mapped by both sides."""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple, Optional

SIZE_BYTES = 64
_LAYOUT = struct.Struct("<q16s")
_PID = struct.Struct("<q")
_PID_OFFSET, _GUARD_OFFSET = 32, 40


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

    def close(self) -> None:
        """Give the page back; nothing is noted after it."""
        self._page.close()

    def leave_step(self) -> None:
        """Note that no step is under way."""
        self.step = None
        self.enter("wait")


def create_status(path: str) -> int:
    """Make the file before the worker starts; return a descriptor to read it by, whatever becomes of its name."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    os.write(descriptor, _LAYOUT.pack(-1, b"start").ljust(SIZE_BYTES, b"\0"))
    return descriptor


def note_pid(path: str) -> None:
    """Note that this process is the worker: from here on it tells its stacks on SIGUSR1."""
    _note(path, _PID_OFFSET)


def note_guard(path: str) -> None:
    """Note that this process stands guard over a worker."""
    _note(path, _GUARD_OFFSET)


def _note(path: str, offset: int) -> None:
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), _PID.pack(os.getpid()), offset)


def read_pid(descriptor: int) -> Optional[int]:
    """Return the worker's pid, or None before it was noted."""
    (pid,) = _PID.unpack(_page(descriptor, _PID_OFFSET, _PID.size))
    return pid or None


def read_status(descriptor: int) -> Status:
    """Return what the worker noted last."""
    step, phase = _LAYOUT.unpack(_page(descriptor, 0, _LAYOUT.size))
    return Status(None if step < 0 else step, phase.rstrip(b"\0").decode("ascii", "replace"))


def is_guarded(descriptor: int) -> bool:
    """Say whether a guard stands over the worker."""
    return _PID.unpack(_page(descriptor, _GUARD_OFFSET, _PID.size)) != (0,)


def _page(descriptor: int, offset: int, size_bytes: int) -> bytes:
    """Return a part of the page; zeros where whoever maps it has cut it short."""
    return os.pread(descriptor, size_bytes, offset).ljust(size_bytes, b"\0")
