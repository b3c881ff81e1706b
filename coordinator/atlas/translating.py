"""Finds, for a call of one framework, the calls of the other that do the same or come nearest."""

from __future__ import annotations

from stepalign.coordinator.atlas.applying import Side, Translation, apply
from stepalign.coordinator.atlas.calls import Call
from stepalign.coordinator.atlas.pairing import NoCounterpart
from stepalign.coordinator.atlas.pairings import pairings_of


def translate(call: Call, side: Side) -> list[Translation]:
    """Return the other side's calls for a call of ``side``, the ones that lose nothing first.

    Empty where the class has no counterpart. Raises NoCounterpart, with the first pairing's reason, where there are
    pairings but the values fit none of them.
    """
    found: list[Translation] = []
    refusal: NoCounterpart | None = None
    for pairing in pairings_of(call.target, side):
        if not pairing.configurations:
            continue
        try:
            found.append(apply(pairing, call, side))
        except NoCounterpart as error:
            refusal = refusal or error
    if not found and refusal is not None:
        raise refusal
    return sorted(found, key=lambda translation: len(translation.lost))
