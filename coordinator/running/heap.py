"""Gives the machine back what the process has freed: the C library keeps it, in pieces, for the next time."""

from __future__ import annotations

import contextlib

_M_MMAP_THRESHOLD = -3
"""Of glibc's mallopt, from malloc.h."""

_LARGE_BYTES = 128 << 10
"""glibc's own threshold to begin with, which it raises up to 32 MiB as such blocks are freed."""


def keep_large_blocks_apart() -> None:
    """Have each large block in pages of its own for the rest of this process: once freed it goes back to the machine, and leaves
    no hole among small ones. Its pages come fresh each time, which costs too much where there are many.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """Return freed memory to the machine; a C library that has no way to is left alone."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
