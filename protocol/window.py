"""Where a process reads what its peer put into memory: read-only arrays, each checked before it is made.

A region is in use from the message that names it until no array of it is left here; then it is on the list that goes back
with the next message. Two regions in use never overlap, and none goes beyond the file: a peer that claims otherwise broke
the protocol.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left, insort
from collections import deque
from typing import Deque, Dict, List

import numpy as np

from stepalign.protocol.arena import MappedMemory, Region
from stepalign.protocol.errors import ProtocolError


class Window:
    """The reading end of one memory file. Used from one thread; arrays may be dropped on any."""

    def __init__(self, memory: MappedMemory) -> None:
        self._memory = memory
        self._sizes: Dict[int, int] = {}
        self._offsets: List[int] = []
        self._regions: "Dict[int, weakref.ref[Region]]" = {}
        self._dropped: Deque[int] = deque()
        self._returned: List[int] = []
        self._in_use_bytes = 0

    def view(self, offset: int, size_bytes: int) -> np.ndarray:
        """Return ``size_bytes`` bytes at ``offset`` as a read-only array. Raises ProtocolError if they are not the
        peer's to give.
        """
        if size_bytes <= 0 or offset < 0 or offset + size_bytes > self._memory.size_bytes:
            raise ProtocolError(
                f"{size_bytes} bytes at {offset} are not inside the memory of {self._memory.size_bytes} bytes"
            )
        index = bisect_left(self._offsets, offset)
        beside = self._offsets[max(index - 1, 0) : index + 1]
        for other in beside:
            if other < offset + size_bytes and offset < other + self._sizes[other]:
                raise ProtocolError(
                    f"{size_bytes} bytes at {offset} overlap the {self._sizes[other]} at {other}, which are still in use"
                )
        region = Region(self._memory, offset, size_bytes)
        dropped = self._dropped
        self._regions[offset] = weakref.ref(region, lambda _: dropped.append(offset))
        insort(self._offsets, offset)
        self._sizes[offset] = size_bytes
        self._in_use_bytes += size_bytes
        array: np.ndarray = np.asarray(region)
        return array

    @property
    def size_bytes(self) -> int:
        return self._memory.size_bytes

    def take_released(self) -> List[int]:
        """Return what is no longer in use since the last call: the peer may write there once it is told."""
        self._collect()
        released, self._returned = self._returned, []
        for offset in released:
            del self._offsets[bisect_left(self._offsets, offset)]
            del self._sizes[offset]
        return released

    def in_use_bytes(self) -> int:
        """Return how many bytes of the peer's are in use here."""
        self._collect()
        return self._in_use_bytes

    def drop_resident(self) -> None:
        """Give this process's pages back; arrays stay valid."""
        self._memory.drop_resident()

    def _collect(self) -> None:
        while self._dropped:
            offset = self._dropped.popleft()
            del self._regions[offset]
            self._in_use_bytes -= self._sizes[offset]
            self._returned.append(offset)
