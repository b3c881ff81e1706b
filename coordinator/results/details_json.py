"""details.json: what the report shows beyond result.json. A run folder without it, or with a damaged one, still has a
report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepalign.coordinator.results.records import to_strict, write_text

DETAILS_NAME = "details.json"
SCHEMA = 1


def write_details_json(folder: Path, details: Mapping[str, Any]) -> None:
    """Write the file into a run folder, without spaces: it is for the report, not for reading."""
    write_text(folder / DETAILS_NAME, json.dumps(to_strict(details), allow_nan=False, separators=(",", ":")))


def read_details_json(folder: Path) -> dict[str, Any]:
    """Return what the file holds; empty where it is not there or cannot be read."""
    try:
        value = json.loads((folder / DETAILS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and value.get("schema") == SCHEMA else {}
