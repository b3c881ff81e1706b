"""The measured numbers, kept in ``numbers.json`` beside this module: page and verdicts can be made anew from them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.atlas.difference import Difference
from benchmarks.atlas.measuring import Row
from stepalign.coordinator.atlas.pairing import Pairing

NUMBERS_FILE = Path(__file__).with_name("numbers.json")
_DIGITS = 4


@dataclass(frozen=True)
class Numbers:
    """All rows, with the date and the versions that they were measured with."""

    date: str
    torch: str
    paddle: str
    rows: tuple[Row, ...]


def write_numbers(path: Path, numbers: Numbers) -> None:
    """Write the numbers, each to four digits."""
    rows = {row.pairing.key: _to_plain(row) for row in numbers.rows}
    record = {"date": numbers.date, "torch": numbers.torch, "paddle": numbers.paddle, "rows": rows}
    text = json.dumps(record, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_numbers(path: Path, pairings: Iterable[Pairing]) -> Numbers:
    """Read what `write_numbers` wrote; a pairing without numbers has an empty row."""
    record = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple(_from_plain(pairing, record["rows"].get(pairing.key, {})) for pairing in pairings)
    return Numbers(record["date"], record["torch"], record["paddle"], rows)


def replaced(before: Numbers, now: Numbers) -> Numbers:
    """Return ``before`` with the rows of ``now`` in place of its own. Raises ValueError where the versions are others."""
    if (before.torch, before.paddle) != (now.torch, now.paddle):
        raise ValueError(f"measured with torch {before.torch}, paddle {before.paddle}: measure all rows anew")
    rows = {row.pairing.key: row for row in now.rows}
    return Numbers(now.date, now.torch, now.paddle, tuple(rows.get(row.pairing.key, row) for row in before.rows))


def _to_plain(row: Row) -> dict[str, Any]:
    found: dict[str, dict[str, str]] = {}
    for (configuration, dtype, regime), item in row.found.items():
        cell = f"{_rounded(item.whole)} {_rounded(item.beyond)} {item.step}"
        found.setdefault(f"{configuration} | {dtype}", {})[regime] = cell
    alone = None if row.defaults_alone is None else float(_rounded(row.defaults_alone.whole))
    return {"found": found, "defaults_alone": alone, "errors": row.errors}


def _from_plain(pairing: Pairing, plain: dict[str, Any]) -> Row:
    row = Row(pairing, errors=list(plain.get("errors", [])))
    for place, cells in plain.get("found", {}).items():
        configuration, _, dtype = place.rpartition(" | ")
        for regime, cell in cells.items():
            whole, beyond, step = cell.split()
            row.found[configuration, dtype, regime] = Difference(float(whole), float(beyond), int(step))
    if plain.get("defaults_alone") is not None:
        row.defaults_alone = Difference(plain["defaults_alone"])
    return row


def _rounded(value: float) -> str:
    return f"{value:.{_DIGITS - 1}e}"
