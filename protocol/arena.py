"""Where a process puts large tensors for its peer: room is given out first-fit, and taken back when both are done.

A region belongs to this process as long as an array of it lives here, and to the peer from the message that names it
until the peer says that it released it. When there is no room the caller is told so, and sends a frame: nothing waits.
"""

from __future__ import annotations

import math
import threading
import weakref
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from typing import Any, Deque, Dict, Iterable, List, Optional, Protocol, Tuple

import numpy as np

from stepalign.protocol.errors import ProtocolError, shown
from stepalign.protocol.tensors import DTYPES

PAGE_SIZE_BYTES = 4096


class MappedMemory(Protocol):
    """Memory at a fixed address, mapped for as long as the object lives."""

    address: int
    size_bytes: int
    writable: bool

    def drop_resident(self) -> None:
        """Give this process's pages back."""


class Region:
    """What every array of one region refers to: when it is gone, so are they. Keeps its memory mapped."""

    __slots__ = ("__array_interface__", "__weakref__", "_memory")

    def __init__(self, memory: MappedMemory, offset: int, size_bytes: int) -> None:
        self._memory = memory
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (size_bytes,),
            "data": (memory.address + offset, not memory.writable),
        }


@dataclass
class _Lease:
    size_bytes: int
    region: "Optional[weakref.ref[Region]]"
    with_peer: bool = False


class Arena:
    """The allocator of one memory file. Any thread may ask for room."""

    def __init__(self, memory: MappedMemory) -> None:
        self._memory = memory
        self._free: List[Tuple[int, int]] = [(0, memory.size_bytes)]
        self._leases: Dict[int, _Lease] = {}
        self._dropped: Deque[int] = deque()
        self._lock = threading.Lock()

    def room(self, shape: Tuple[int, ...], dtype: str) -> Optional[np.ndarray]:
        """Return an array to be filled, or None if there is no room for it. Its region is free again once all its
        arrays are gone and the peer, if it was sent, has released it.
        """
        kind = DTYPES[dtype]
        size_bytes = math.prod(shape) * kind.itemsize
        with self._lock:
            self._collect()
            offset = self._take(-(-size_bytes // PAGE_SIZE_BYTES) * PAGE_SIZE_BYTES)
            if offset is None:
                return None
            region = Region(self._memory, offset, size_bytes)
            dropped = self._dropped
            self._leases[offset].region = weakref.ref(region, lambda _: dropped.append(offset))
        return np.asarray(region).view(kind).reshape(shape)  # type: ignore[no-any-return,unused-ignore]

    def hand_over(self, array: np.ndarray) -> Optional[int]:
        """Return where a C-ordered ``array`` lies, from now on the peer's too; None if it has to be copied first."""
        offset = array.__array_interface__["data"][0] - self._memory.address
        if not 0 <= offset < self._memory.size_bytes:
            return None
        with self._lock:
            lease = self._leases.get(offset)
            if lease is None or lease.with_peer or array.nbytes > lease.size_bytes:
                return None
            lease.with_peer = True
        return int(offset)

    def place(self, array: np.ndarray) -> Optional[int]:
        """Copy ``array`` to where the peer can read it, and return where that is; None if there is no room."""
        room = self.room(array.shape, array.dtype.name)
        if room is None:
            return None
        np.copyto(room, array)
        return self.hand_over(room)

    def release(self, offsets: Iterable[Any]) -> None:
        """Take regions back from the peer. Raises ProtocolError for one that it does not have."""
        with self._lock:
            for offset in offsets:
                lease = self._leases.get(offset) if type(offset) is int else None
                if lease is None or not lease.with_peer:
                    raise ProtocolError(f"memory at {shown(offset)} was released, which was not in the peer's hands")
                lease.with_peer = False
                self._free_if_done(offset, lease)
            self._collect()

    def used_bytes(self) -> int:
        """Return how much is given out."""
        with self._lock:
            self._collect()
            return self._memory.size_bytes - sum(size for _, size in self._free)

    def drop_resident(self) -> None:
        """Give this process's pages back; what was written stays."""
        self._memory.drop_resident()

    def _collect(self) -> None:
        """Note which regions have no array here any more. What drops them only leaves word: it may hold any lock."""
        while self._dropped:
            offset = self._dropped.popleft()
            lease = self._leases[offset]
            lease.region = None
            self._free_if_done(offset, lease)

    def _take(self, size_bytes: int) -> Optional[int]:
        for index, (offset, available) in enumerate(self._free):
            if available >= size_bytes:
                if available == size_bytes:
                    del self._free[index]
                else:
                    self._free[index] = (offset + size_bytes, available - size_bytes)
                self._leases[offset] = _Lease(size_bytes, None)
                return offset
        return None

    def _free_if_done(self, offset: int, lease: _Lease) -> None:
        if lease.with_peer or lease.region is not None:
            return
        del self._leases[offset]
        size_bytes = lease.size_bytes
        index = bisect_left(self._free, (offset, 0))
        if index < len(self._free) and self._free[index][0] == offset + size_bytes:
            size_bytes += self._free.pop(index)[1]
        if index and sum(self._free[index - 1]) == offset:
            index -= 1
            offset = self._free[index][0]
            size_bytes += self._free.pop(index)[1]
        self._free.insert(index, (offset, size_bytes))
