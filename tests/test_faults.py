"""Rows of the fault matrix that are quick, as the command line shows them; `python -m benchmarks.faults` runs them all."""

from __future__ import annotations

import os

import pytest

from benchmarks.faults.catalogue import cells, select
from benchmarks.faults.cell import Cell
from benchmarks.faults.running import run_cell


@pytest.mark.parametrize("cell", select(only_quick=True), ids=lambda cell: cell.name)
def test_a_fault_is_told_in_time_and_leaves_nothing_behind(cell: Cell) -> None:
    if cell.needs == "root" and os.getuid():
        pytest.skip("mounting takes root's rights")
    seen = run_cell(cell)
    assert not seen.problems, f"{seen.problems}\n{seen.output}"


def test_every_row_has_a_name_of_its_own() -> None:
    names = [cell.name for cell in cells()]
    assert len(names) == len(set(names))
    assert {cell.group for cell in cells()} == {"dies", "hangs", "lies", "babbles", "coordinator", "machine"}
