"""A bounded number of lines of steps.jsonl, so that a report of 100,000 steps costs little more than one of 100.

Guarantees: lines that are not chosen are not parsed; a line that cannot be read is left out and counted, for a damaged
log must not cost the report of the run.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepalign.coordinator.report.rows import chosen_steps
from stepalign.coordinator.results.records import STEPS_NAME

_HEAD_BYTES = 80
_FAILED = b'"passed":false'


@dataclass(frozen=True)
class StepsSample:
    """The chosen lines, in order, of ``total`` whole ones; ``unreadable`` of the chosen could not be read."""

    lines: tuple[dict[str, Any], ...] = ()
    total: int = 0
    unreadable: int = 0

    @property
    def unlisted(self) -> int:
        """How many failures a chosen line leaves unlisted at most: it lists the first ones and counts all."""
        return max((_unlisted(line) for line in self.lines), default=0)


def read_sample(folder: Path, room: int, important: Iterable[int] = ()) -> StepsSample:
    """Read at most ``room`` lines of the folder's steps.jsonl, which need not exist.

    ``important`` line numbers (from 0, as steps are) come first, then those of the first failed steps, a quarter of the
    room, then lines spread over the whole length.
    """
    try:
        with open(folder / STEPS_NAME, "rb") as file:
            offsets = array("q")
            failed: list[int] = []
            offset = 0
            for line in file:
                if line.endswith(b"\n"):
                    if _FAILED in line[:_HEAD_BYTES] and len(failed) < room // 4:
                        failed.append(len(offsets))
                    offsets.append(offset)
                offset += len(line)
            parsed = []
            chosen = chosen_steps(len(offsets), room, (*important, *failed), evenly=True)
            for number in chosen:
                file.seek(offsets[number])
                parsed.append(_parse(file.readline()))
    except OSError:
        return StepsSample()
    lines = tuple(line for line in parsed if line is not None)
    return StepsSample(lines, len(offsets), len(chosen) - len(lines))


def _unlisted(line: dict[str, Any]) -> int:
    failed, listed = line.get("failed"), line.get("failures")
    return max(0, failed - len(listed)) if isinstance(failed, int) and isinstance(listed, list) else 0


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_step = isinstance(value, dict) and isinstance(value.get("step"), int)
    return value if is_step else None
