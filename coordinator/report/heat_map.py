"""Where a divergence starts and spreads: steps by kinds and tensors, each cell by difference / allowed.

Guarantees: at most `MAX_TENSORS` tensors and the sampled steps; a cell's colour never contradicts whether it passed; a
cell that steps.jsonl says nothing of is empty.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stepalign.coordinator.cases.case import KINDS
from stepalign.coordinator.report.steps_sample import StepsSample
from stepalign.coordinator.report.wording import kind_words, number, ratio_to_allowed
from stepalign.coordinator.results.records import from_strict_number

MAX_TENSORS = 40
LIMIT = 3.0
"""Cells are coloured by log10(difference / allowed), from -LIMIT to LIMIT."""
_CLEAR = 0.05
_REASON_LENGTH = 160
_DETAILS = ("max_abs", "rel_l2", "torch", "paddle")

Row = tuple[str, str]
"""A kind and a tensor's name; an empty name stands for the worst of the kind."""


def heat_map(sample: StepsSample) -> dict[str, Any] | None:
    """Return the map's ``steps``, ``rows`` (label, kind, name), ``z`` [rows][steps] and ``details`` alike, or None.

    A detail is [ratio, passed, greatest difference, relative L2, torch, paddle, the name in a kind's row, paddle's name
    where it is another, reason].
    """
    cells: dict[Row, dict[int, Mapping[str, Any]]] = {}
    for column, line in enumerate(sample.lines):
        for entry in _entries(line):
            kind, name = str(entry.get("kind", "")), str(entry.get("torch_name") or entry.get("paddle_name") or "")
            _keep_worst(cells.setdefault((kind, ""), {}), column, entry)
            if name not in ("", kind):
                _keep_worst(cells.setdefault((kind, name), {}), column, entry)
    if not cells:
        return None
    rows = _chosen_rows(cells)
    columns = range(len(sample.lines))
    return {
        "steps": [line["step"] for line in sample.lines],
        "rows": [{"kind": kind_words(kind), "name": name} for kind, name in rows],
        "z": [[_colour(cells[row].get(column)) for column in columns] for row in rows],
        "details": [[_detail(cells[row].get(column), not row[1]) for column in columns] for row in rows],
        "limit": LIMIT,
    }


def _entries(line: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    failures, worst = line.get("failures"), line.get("worst")
    listed = [
        *(failures if isinstance(failures, list) else []),
        *(worst.values() if isinstance(worst, Mapping) else []),
    ]
    return (entry for entry in listed if isinstance(entry, Mapping))


def _keep_worst(cells: dict[int, Mapping[str, Any]], column: int, entry: Mapping[str, Any]) -> None:
    if column not in cells or _badness(entry) > _badness(cells[column]):
        cells[column] = entry


def _badness(entry: Mapping[str, Any]) -> tuple[bool, float]:
    ratio = ratio_to_allowed(entry)
    return (not entry.get("passed", True), math.inf if math.isnan(ratio) else ratio)


def _chosen_rows(cells: Mapping[Row, Mapping[int, Mapping[str, Any]]]) -> list[Row]:
    """Choose the tensors that fail first and most; order kinds by cause, tensors as the steps list them."""
    places = {row: place for place, row in enumerate(cells)}
    failed = {
        row: [column for column, entry in columns.items() if not entry.get("passed", True)]
        for row, columns in cells.items()
        if row[1]
    }
    named = Counter(kind for kind, _ in failed)
    failing = [row for row, columns in failed.items() if columns and named[row[0]] > 1]
    tensors = sorted(failing, key=lambda row: (failed[row][0], -len(failed[row]), places[row]))[:MAX_TENSORS]
    kinds = [row for row in cells if not row[1]]
    return sorted((*kinds, *tensors), key=lambda row: (_cause_order(row[0]), row[1] != "", places[row]))


def _cause_order(kind: str) -> tuple[int, str]:
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)


def _colour(entry: Mapping[str, Any] | None) -> float | None:
    if entry is None:
        return None
    ratio = ratio_to_allowed(entry)
    if ratio == 0:
        level = -LIMIT
    else:
        level = LIMIT if not math.isfinite(ratio) else max(-LIMIT, min(LIMIT, math.log10(ratio)))
    return round(min(level, -_CLEAR) if entry.get("passed", True) else max(level, _CLEAR), 2)


def _detail(entry: Mapping[str, Any] | None, is_kind_row: bool) -> Sequence[Any] | None:
    if entry is None:
        return None
    ratio = ratio_to_allowed(entry)
    torch_name, paddle_name = entry.get("torch_name"), entry.get("paddle_name")
    return [
        "" if math.isnan(ratio) else number(ratio, 3),
        bool(entry.get("passed", True)),
        *(_measure(entry.get(key)) for key in _DETAILS),
        str(torch_name or "") if is_kind_row else "",
        str(paddle_name) if paddle_name and paddle_name != torch_name else "",
        str(entry.get("reason", ""))[:_REASON_LENGTH],
    ]


def _measure(value: object) -> str:
    try:
        return number(from_strict_number(value), 5)
    except ValueError:
        return ""
