"""How far every tensor is apart at every step, in a bounded table: steps by tensors, for the report's map.

Guarantees: at most `MAX_TENSORS` rows and `MAX_STEPS` columns however long the run: once there are more steps, every
second one is forgotten, then every fourth, and so on; the steps around the first failure stay. A cell takes 8 bytes.
"""

from __future__ import annotations

import math
from array import array
from typing import Any, Collection, Dict, Mapping, Tuple

import numpy as np

from stepalign.coordinator.comparison.comparison import Comparison, StepJudgement

MAX_TENSORS = 1500
MAX_STEPS = 240
_KEPT_AROUND_FAILURE = 8

Row = Tuple[str, str, str]
"""A kind, torch's name and paddle's name."""


class DifferenceMap:
    """The table as it grows, a column a step. A cell is log10(difference / allowed), negative where it passed."""

    def __init__(self) -> None:
        self.left_out = 0
        self._rows: Dict[Row, int] = {}
        self._columns: Dict[int, "array[float]"] = {}
        self._stride = 1
        self._first_failure = -1

    def note(self, judgement: StepJudgement) -> None:
        """Take one step's comparisons; one that was taken before is replaced."""
        step = judgement.step
        earliest = self._first_failure < 0 or step < self._first_failure  # steps that are repeated (`gap`) come late
        if earliest and any(not item.passed for item in judgement.comparisons):
            self._first_failure = step
        if not self._wants(step):
            return
        found: Dict[int, float] = {}
        for item in judgement.comparisons:
            if item.measures is None and item.passed:
                continue
            row = self._row(item)
            if row is not None:
                found[row] = max(level_of(item), found.get(row, -math.inf))
        self._columns[step] = array("d", (found.get(row, math.nan) for row in range(len(self._rows))))
        while len(self._columns) > MAX_STEPS:
            self._stride *= 2
            self._columns = {kept: cells for kept, cells in self._columns.items() if self._wants(kept)}

    def to_plain(self) -> Dict[str, Any]:
        """Return ``steps``, ``rows`` (kind, torch's name, paddle's name) and ``levels`` [rows][steps], None if empty."""
        levels = self._levels(sorted(self._columns))
        return {
            "steps": sorted(self._columns),
            "rows": [list(row) for row in self._rows],
            "levels": [
                [None if math.isnan(level) else round(level, 2) for level in row] for row in levels.T.tolist()
            ],
            "left_out": self.left_out,
        }

    def pack(self) -> Tuple[np.ndarray, Dict[str, Any]]:
        """Return the levels, float64 [steps][rows] with NaN where there is no cell, and all else as plain values."""
        return self._levels(self._columns), {
            "steps": list(self._columns),
            "rows": [list(row) for row in self._rows],
            "left_out": self.left_out,
            "stride": self._stride,
            "first_failure": self._first_failure,
        }

    def unpack(self, levels: np.ndarray, plain: Mapping[str, Any]) -> None:
        """Become the map that `pack` was called on."""
        self._rows = {(kind, torch, paddle): number for number, (kind, torch, paddle) in enumerate(plain["rows"])}
        self._columns = {step: array("d", cells) for step, cells in zip(plain["steps"], levels)}
        self.left_out, self._stride = plain["left_out"], plain["stride"]
        self._first_failure = plain["first_failure"]

    def _levels(self, steps: Collection[int]) -> np.ndarray:
        """Return the levels [steps][rows]; a column does not know the rows that came after it."""
        levels = np.full((len(steps), len(self._rows)), np.nan)
        for number, step in enumerate(steps):
            column = self._columns[step]
            levels[number, : len(column)] = column
        return levels

    def _wants(self, step: int) -> bool:
        near = self._first_failure >= 0 and abs(step - self._first_failure) <= _KEPT_AROUND_FAILURE
        return near or step % self._stride == 0

    def _row(self, item: Comparison) -> int | None:
        key = (item.kind, item.torch_name or "", item.paddle_name or "")
        if key not in self._rows:
            if len(self._rows) >= MAX_TENSORS:
                self.left_out += 1
                return None
            self._rows[key] = len(self._rows)
        return self._rows[key]


LEVEL_LIMIT = 6.0
"""Levels lie between -LEVEL_LIMIT (equal) and LEVEL_LIMIT (not finite, missing, or that far apart)."""
_CLEAR = 0.01


def level_of(item: Comparison) -> float:
    """Return log10(difference / allowed), bounded, and on the side of 0 that says whether ``item`` passed."""
    measures = item.measures
    level = LEVEL_LIMIT
    if measures is not None and math.isfinite(measures.max_abs):
        allowed = item.atol + item.rtol * abs(measures.reference)
        if measures.max_abs == 0:
            level = -LEVEL_LIMIT
        elif allowed > 0 and math.isfinite(allowed):
            level = max(-LEVEL_LIMIT, min(LEVEL_LIMIT, math.log10(measures.max_abs / allowed)))
    return min(level, -_CLEAR) if item.passed else max(level, _CLEAR)
