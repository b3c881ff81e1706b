"""Results of short steps on their way from a worker to its coordinator, without waking it for each: a pipe that neither waits on.

A record is whole or absent, and stays in the kernel when its writer is killed, so that a step in it is never lost. Each
says how many messages its writer had sent before it: read no sooner than those came, records and messages keep their order.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
from collections import deque
from typing import Deque, List, Optional, Sequence, Tuple

from stepalign.protocol.errors import ProtocolError
from stepalign.protocol.tensors import Buffer

_HEAD = struct.Struct("<III")
"""The record's size, how many messages were sent before it, the size of its first frame."""

MAX_RECORD_BYTES = select.PIPE_BUF
"""What the kernel writes whole or not at all."""

_MAX_FRAMES = 2
_READ_BYTES = 1 << 16


def open_journal() -> Tuple["JournalReader", int]:
    """Return the coordinator's end, and the descriptor that a worker inherits and writes to."""
    reading, writing = os.pipe()
    for descriptor in (reading, writing):
        os.set_blocking(descriptor, False)
    return JournalReader(reading), writing


class JournalWriter:
    """The worker's end. No child that is started gets it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_inheritable(descriptor, False)

    def append(self, messages_before: int, frames: Sequence[Buffer]) -> bool:
        """Write a message's frames down; return False, with nothing written, where they are too large or find no room."""
        if len(frames) > _MAX_FRAMES:
            return False
        body = b"".join(frames)
        if len(body) > MAX_RECORD_BYTES - _HEAD.size:
            return False
        record = _HEAD.pack(_HEAD.size + len(body), messages_before, len(frames[0])) + body
        try:
            return os.write(self._descriptor, record) == len(record)
        except OSError:  # full; or nobody reads it any more
            return False

    def close(self) -> None:
        """Write nothing more."""
        with contextlib.suppress(OSError):  # a script may have closed it
            os.close(self._descriptor)


class JournalReader:
    """The coordinator's end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self._records: Deque[Tuple[int, List[Buffer]]] = deque()

    def take(self, messages_received: Optional[int]) -> List[List[Buffer]]:
        """Return the frames of each record that nothing is missing before: no more messages were sent than were received.
        None takes all. Raises ProtocolError for what is no record.
        """
        self._read()
        taken = []
        while self._records and (messages_received is None or self._records[0][0] <= messages_received):
            taken.append(self._records.popleft()[1])
        return taken

    def close(self) -> None:
        """Read nothing more."""
        os.close(self._descriptor)

    def _read(self) -> None:
        try:
            data = self._rest + os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        start = 0
        while len(data) - start >= _HEAD.size:
            size, before, first = _HEAD.unpack_from(data, start)
            if not _HEAD.size + first <= size <= MAX_RECORD_BYTES:
                raise ProtocolError(f"a record of {size} bytes came, with a header of {first}: at most {MAX_RECORD_BYTES}")
            if len(data) - start < size:
                break
            header = start + _HEAD.size
            pool = data[header + first : start + size]
            self._records.append((before, [data[header : header + first], *([pool] if pool else [])]))
            start += size
        self._rest = data[start:]
