"""How far the two sides of each pairing were seen to agree: ``measured.json``, which `python -m benchmarks.atlas` writes.

Nothing in it is written by hand. It belongs to the versions that it names.
"""

from __future__ import annotations

import enum
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from stepalign.coordinator.atlas.pairing import Pairing
from stepalign.protocol.schema import from_plain

MEASURED_FILE = Path(__file__).with_name("measured.json")
SCHEMA = 1


class Verdict(str, enum.Enum):
    """What a pairing is worth, from best to worst."""

    EXACT = "exact"
    ROUNDING = "to rounding"
    APPROXIMATE = "approximate"
    NONE = "none"


@dataclass(frozen=True)
class Agreement:
    """What was measured of one pairing; ``verdict`` is a `Verdict`'s value.

    float32, float64: the greatest difference over all configurations, regimes and steps, relative to how far the
    parameters have moved (optimizers, clips, regularisers) or to the rate (schedules); None where nothing could be measured.
    float32_beyond, float64_beyond: the same without what rounding of the parameter itself may do, two units in its last
    place a step.
    float64_rounded: the same in float64 with all hyper-parameters rounded to float32 on both sides, which takes out what
    paddle keeps in float32; None where it was not needed.
    regime, configuration: where the greatest difference was seen.
    defaults_alone: the greatest difference where both sides are given the rate and nothing else. errors: what a side
    refused.
    """

    verdict: str
    float32: Optional[float] = None
    float32_beyond: Optional[float] = None
    float64: Optional[float] = None
    float64_beyond: Optional[float] = None
    float64_rounded: Optional[float] = None
    regime: str = ""
    configuration: str = ""
    defaults_alone: Optional[float] = None
    errors: tuple[str, ...] = ()

    @property
    def is_usable(self) -> bool:
        """Say whether the counterpart does the same, beyond nothing but rounding."""
        return self.verdict in (Verdict.EXACT.value, Verdict.ROUNDING.value)


@dataclass(frozen=True)
class Measured:
    """The whole record: when, with which versions, and each row by its pairing's key."""

    schema: int
    date: str
    torch: str
    paddle: str
    rows: dict[str, Agreement]


@functools.cache
def measured() -> Measured | None:
    """Return the record; None where none was made yet."""
    if not MEASURED_FILE.is_file():
        return None
    return from_plain(Measured, json.loads(MEASURED_FILE.read_text(encoding="utf-8")))


def agreement_of(pairing: Pairing, rows: Mapping[str, Agreement] | None = None) -> Agreement | None:
    """Return what was measured of a pairing; None if nothing was."""
    if rows is None:
        record = measured()
        rows = record.rows if record is not None else {}
    return rows.get(pairing.key)
