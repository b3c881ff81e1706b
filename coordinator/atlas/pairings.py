"""Every declared pairing, and which of them a class takes part in."""

from __future__ import annotations

from typing import Literal

from stepalign.coordinator.atlas.clips import CLIPS, REGULARIZERS
from stepalign.coordinator.atlas.optimizers import SHARED_RULES
from stepalign.coordinator.atlas.optimizers_composed import COMPOSED_RULES
from stepalign.coordinator.atlas.pairing import Pairing
from stepalign.coordinator.atlas.schedules import OWN_SCHEDULES
from stepalign.coordinator.atlas.schedules_composed import COMPOSED_SCHEDULES

PAIRINGS: tuple[Pairing, ...] = (
    *SHARED_RULES, *COMPOSED_RULES, *OWN_SCHEDULES, *COMPOSED_SCHEDULES, *CLIPS, *REGULARIZERS,
)  # fmt: skip


def pairings_of(target: str, side: Literal["torch", "paddle"]) -> list[Pairing]:
    """Return the pairings of a class or function of one side, by its dotted name, in declared order."""
    return [pairing for pairing in PAIRINGS if getattr(pairing, side) == target]


def pairing_of(key: str) -> Pairing:
    """Return the pairing of a key. Raises KeyError where none has it."""
    return {pairing.key: pairing for pairing in PAIRINGS}[key]
