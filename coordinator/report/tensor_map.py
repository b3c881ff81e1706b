"""Where a divergence starts and spreads: steps by tensors in the model's order, each cell by difference / allowed.

Guarantees: a cell's colour never contradicts whether it passed; a cell that nothing is known of is empty; what a run
folder without details.json says in steps.jsonl is drawn alike, with the cells that it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stepalign.coordinator.cases.case import KINDS
from stepalign.coordinator.languages.translation import say
from stepalign.coordinator.report.steps_sample import StepsSample
from stepalign.coordinator.report.wording import kind_words, number, ratio_to_allowed
from stepalign.coordinator.results.records import from_strict_number

LEVEL_LIMIT = 6.0
"""A level is log10(difference / allowed), between -LEVEL_LIMIT (equal) and LEVEL_LIMIT (missing or not finite)."""
MAX_FACTS = 4000
_CLEAR = 0.01
_REASON_LENGTH = 200
_MEASURES = ("max_abs", "rel_l2", "torch", "paddle")

Row = tuple[str, str, str]
"""A kind, torch's name and paddle's name."""


def tensor_map(sample: StepsSample, details: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the map's ``steps``, ``rows``, ``levels`` [rows][steps], ``facts`` and ``failure``, or None without cells.

    A row has ``kind``, ``kind_words``, ``tensor`` (what the rows of one tensor share), ``name`` and ``paddle``; rows
    are in the model's order. ``facts`` has, by "row,step", what steps.jsonl measured there. ``failure`` is the first
    failing step's tensors with histogram and worst elements, as details.json has them.
    """
    recorded = details.get("map")
    steps, rows, levels = _recorded(recorded) if _has_cells(recorded) else _sampled(sample)
    if not rows:
        return None
    order = _model_order(rows, details)
    rows, levels = [rows[place] for place in order], [levels[place] for place in order]
    return {
        "steps": steps,
        "rows": [
            {
                "kind": kind,
                "kind_words": kind_words(kind),
                "tensor": tensor_of(kind, name),
                "name": name if name != kind else "",
                "paddle": paddle if paddle != name else "",
            }
            for kind, name, paddle in rows
        ],
        "kinds": [[kind, kind_words(kind)] for kind in sorted({row[0] for row in rows}, key=cause_order)],
        "levels": levels,
        "facts": _facts(sample, rows),
        "failure": details.get("first_failure") or None,
        "left_out": recorded.get("left_out", 0) if isinstance(recorded, Mapping) else 0,
    }


def tensor_of(kind: str, name: str) -> str:
    """Return what the rows of one tensor share: the parameter of an optimizer state, a module of its outputs."""
    if kind == "optimizer_state":
        return name.rpartition("/")[0]
    return kind if name == kind else name


def cause_order(kind: str) -> tuple[int, str]:
    """Return a key that sorts kinds by cause; unknown ones come last."""
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)


def _has_cells(recorded: object) -> bool:
    return isinstance(recorded, Mapping) and bool(recorded.get("rows")) and bool(recorded.get("steps"))


def _recorded(recorded: Any) -> tuple[list[int], list[Row], list[list[float | None]]]:
    return recorded["steps"], [(row[0], row[1], row[2]) for row in recorded["rows"]], recorded["levels"]


def _sampled(sample: StepsSample) -> tuple[list[int], list[Row], list[list[float | None]]]:
    cells: dict[Row, dict[int, float]] = {}
    for column, line in enumerate(sample.lines):
        for entry in _entries(line):
            row = _row_of(entry)
            found = cells.setdefault(row, {})
            found[column] = max(_level(entry), found.get(column, -math.inf))
    columns = range(len(sample.lines))
    levels: list[list[float | None]] = [[found.get(column) for column in columns] for found in cells.values()]
    return [line["step"] for line in sample.lines], list(cells), levels


def _entries(line: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    failures, worst = line.get("failures"), line.get("worst")
    listed = [
        *(failures if isinstance(failures, list) else []),
        *(worst.values() if isinstance(worst, Mapping) else []),
    ]
    return (entry for entry in listed if isinstance(entry, Mapping))


def _row_of(entry: Mapping[str, Any]) -> Row:
    torch, paddle = entry.get("torch_name") or "", entry.get("paddle_name") or ""
    return str(entry.get("kind", "")), str(torch or paddle), str(paddle)


def _level(entry: Mapping[str, Any]) -> float:
    ratio = ratio_to_allowed(entry)
    level = LEVEL_LIMIT
    if ratio == 0:
        level = -LEVEL_LIMIT
    elif math.isfinite(ratio):
        level = max(-LEVEL_LIMIT, min(LEVEL_LIMIT, math.log10(ratio)))
    return round(min(level, -_CLEAR) if entry.get("passed", True) else max(level, _CLEAR), 2)


def _model_order(rows: Sequence[Row], details: Mapping[str, Any]) -> list[int]:
    """Return the rows' places, those of no module first, then as the model's modules and tensors are listed."""
    tensors = {name: place for place, name in enumerate(details.get("tensors") or ())}
    modules = {str(item.get("path", "")): place for place, item in enumerate(details.get("modules") or ())}
    whole = ("batch", "lr", "loss")

    def key(place: int) -> tuple[int, int, int, tuple[int, str], int]:
        kind, name, _ = rows[place]
        if kind in whole:
            return (-1, whole.index(kind), 0, cause_order(kind), place)
        tensor = tensor_of(kind, name)
        if kind == "activation":
            module = modules.get(tensor.partition("@")[0].partition("[")[0], len(modules))
            return (module, 0, 0, cause_order(kind), place)
        module = modules.get(tensor.rpartition(".")[0], len(modules))
        return (module, 1, tensors.get(tensor, len(tensors)), cause_order(kind), place)

    return sorted(range(len(rows)), key=key)


def _facts(sample: StepsSample, rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return what was measured where steps.jsonl tells: difference, relative L2, both values, reason."""
    places = {row: place for place, row in enumerate(rows)}
    facts: dict[str, list[str]] = {}
    for line in sample.lines:
        for entry in _entries(line):
            place = places.get(_row_of(entry))
            if place is not None and len(facts) < MAX_FACTS:
                reason = say(str(entry.get("reason", ""))[:_REASON_LENGTH], "causes")
                facts[f"{place},{line['step']}"] = [*(_measure(entry.get(name)) for name in _MEASURES), reason]
    return facts


def _measure(value: object) -> str:
    try:
        return number(from_strict_number(value), 5)
    except ValueError:
        return ""
