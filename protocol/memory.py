"""Memory that a coordinator and its worker both map, one file for each direction: tensors are written once, read in place.

A file is anonymous (`memfd_create`): it has no name that could be left behind, is not bound by the size of /dev/shm, and
is gone with the last process that maps it. It is sealed against shrinking, so that no peer can make a read fail with
SIGBUS, and it is kept from forked children. Pages are taken as they are first written, and used again after that: a fresh
page costs more than what is copied into it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from typing import NamedTuple, Tuple

import numpy as np

from stepalign.protocol.arena import Arena
from stepalign.protocol.window import Window

F_SEAL_FUTURE_WRITE = 0x10
"""Linux 5.1, <linux/fcntl.h>: mappings made from here on are read-only."""


class Memory(NamedTuple):
    """One end: where this process's own tensors go, and where it reads its peer's."""

    arena: Arena
    window: Window


class MemoryFile:
    """One file mapped whole, for as long as any array in it lives: it is never unmapped by hand."""

    def __init__(self, descriptor: int, writable: bool) -> None:
        self.size_bytes = os.fstat(descriptor).st_size
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._map = mmap.mmap(descriptor, self.size_bytes, mmap.MAP_SHARED, protection)
        self._map.madvise(mmap.MADV_DONTFORK)
        self._whole = np.frombuffer(self._map, np.uint8)
        self.address = int(self._whole.ctypes.data)
        self.writable = writable

    def drop_resident(self) -> None:
        """Give this process's pages back; the file keeps what was written, and the next read maps it again."""
        self._map.madvise(mmap.MADV_DONTNEED)


def open_memory(size_bytes: int) -> Tuple[Memory, Tuple[int, int]]:
    """Make both files of one worker, each of ``size_bytes`` at most; return the coordinator's end, and the descriptors
    that the worker inherits: of the file that it writes, and of the one that it reads. Raises OSError, with nothing left
    open, where the system gives no such memory: a limit of file sizes or of address space forbids it.
    """
    with contextlib.ExitStack() as on_error:
        theirs, ours = (_create(size_bytes, on_error) for _ in range(2))
        memory = Memory(Arena(MemoryFile(ours, writable=True)), Window(MemoryFile(theirs, writable=False)))
        with contextlib.suppress(OSError):
            fcntl.fcntl(ours, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
        for descriptor in (theirs, ours):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
        on_error.pop_all()
    return memory, (theirs, ours)


def inherit_memory(descriptors: str) -> Memory:
    """Return the worker's end of what ``descriptors`` (two numbers with a comma between) name, and close them."""
    own, theirs = (int(number) for number in descriptors.split(","))
    memory = Memory(Arena(MemoryFile(own, writable=True)), Window(MemoryFile(theirs, writable=False)))
    os.close(own)
    os.close(theirs)
    return memory


def _create(size_bytes: int, on_error: contextlib.ExitStack) -> int:
    descriptor = os.memfd_create("stepalign", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    on_error.callback(os.close, descriptor)
    os.ftruncate(descriptor, size_bytes)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor
