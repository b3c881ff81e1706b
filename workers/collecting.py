"""Keeps Python's cyclic garbage collector out of long imports, in which nothing becomes garbage. Imports no framework."""

from __future__ import annotations

import contextlib
import gc
from typing import Iterator


@contextlib.contextmanager
def no_collecting() -> Iterator[None]:
    """Collect nothing in here; what was made in here, and before, is then as old as what survived many collections.

    Importing torch and its compiler makes 280,000 objects that stay, which the collector would go through again and again:
    a quarter of the time. Only the age of objects is another than without this.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # what a script froze stays so
            gc.freeze()
            gc.unfreeze()  # to the oldest generation, not looked at on the way
        if was_enabled:
            gc.enable()
