"""Bytes that need not be in memory, in a file without a name in the temporary folder.

Guarantees: what was put comes back; a file that the machine refuses costs memory, never the run; the file has no name
from its first byte on, and is gone with whoever put into it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import weakref
from typing import Optional, Union

Place = Union[int, bytes]
"""Where bytes are: at this offset of the file, or here, where the file did not take them."""


class Spill:
    """The file, which is opened when the first bytes come."""

    def __init__(self) -> None:
        self._descriptor: Optional[int] = None
        self._refused = False
        self._size_bytes = 0

    def put(self, data: bytes) -> Place:
        """Put bytes away and return their place."""
        if not self._refused:
            with contextlib.suppress(OSError):
                return self._write(data)
            self._refused = True
        return data

    def get(self, place: Place, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` to ``stop`` of those at ``place``. Raises OSError where they cannot be read."""
        if isinstance(place, bytes):
            return place[start:stop]
        assert self._descriptor is not None
        data = os.pread(self._descriptor, stop - start, place + start)
        if len(data) != stop - start:
            raise OSError(errno.EIO, "what was put into a temporary file is not there any more")
        return data

    def _write(self, data: bytes) -> int:
        if self._descriptor is None:
            with tempfile.TemporaryFile(prefix="stepalign-", buffering=0) as file:
                self._descriptor = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._descriptor)
        place = self._size_bytes
        if os.pwrite(self._descriptor, data, place) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size_bytes += len(data)
        return place
