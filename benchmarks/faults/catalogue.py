"""All cells of the matrix, in the order of the page."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from benchmarks.faults import coordinator_faults, machine_faults, worker_faults
from benchmarks.faults.cell import Cell


def cells() -> Iterator[Cell]:
    """Yield every cell."""
    yield from worker_faults.deaths()
    yield from worker_faults.hangs()
    yield from worker_faults.lies()
    yield from worker_faults.nuisances()
    yield from coordinator_faults.ends()
    yield from machine_faults.machine()


def select(pattern: str = "*", only_quick: bool = False) -> list[Cell]:
    """Return the cells whose name fits, in order."""
    return [cell for cell in cells() if fnmatch.fnmatch(cell.name, pattern) and (cell.quick or not only_quick)]
