"""Gives the machine back what the process has freed: the C library keeps it, in pieces, for the next time."""

from __future__ import annotations

import contextlib


def give_back() -> None:
    """Return freed memory to the machine; a C library that has no way to is left alone."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
