"""A worker's log file as its owner reads it while it grows."""

from __future__ import annotations

import time
from pathlib import Path

LOG_TAIL_LINES = 40
_MAX_TAIL_SIZE_BYTES = 16 << 10
_MAX_STACKS_SIZE_BYTES = 64 << 10


class WorkerLog:
    """The log at ``path``. Where the run folder has vanished it is empty, which must not hide what went wrong."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def size_bytes(self) -> int:
        """Return how long it is now."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def tail(self) -> str:
        """Return the last lines that the worker wrote."""
        size_bytes = self.size_bytes()
        text = self._read(max(0, size_bytes - _MAX_TAIL_SIZE_BYTES), _MAX_TAIL_SIZE_BYTES)
        return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])

    def written_after(self, before: int, wait_s: float) -> str:
        """Wait until something follows after ``before`` and no more comes; return it."""
        size = before
        deadline = time.monotonic() + wait_s
        settled = False
        while time.monotonic() < deadline and not settled:
            time.sleep(0.05)
            settled = size != before and self.size_bytes() == size
            size = self.size_bytes()
        return self._read(before, _MAX_STACKS_SIZE_BYTES)

    def _read(self, offset: int, size_bytes: int) -> str:
        try:
            with open(self._path, "rb") as log:
                log.seek(offset)
                return log.read(size_bytes).decode("utf-8", "replace")
        except OSError:
            return ""
