"""Compares state by value after steps that nothing was collected of: no rule can be held against what so many updates did.

Rounding adds up over such steps, so what is allowed is wide: `WIDER` times what one update's state may differ by, of the
tensor's greatest magnitude. On a BERT of 11 M parameters the sides were 2e-5 of it apart after 16, 36 and 56 such steps
(float32, torch 2.13.0, paddle 3.3.1, CPU). What fails is weighed against the noise control like any other value, and found at
its own step when the steps are repeated with whole tensors (`running.gap`).
"""

from __future__ import annotations

from typing import AbstractSet, List, Mapping, Tuple

import numpy as np

from stepalign.coordinator.comparison.allowances import Allowances
from stepalign.coordinator.comparison.canonical import Arrays, States, largest_slots
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.comparison.piece_comparer import PieceComparer
from stepalign.coordinator.sessions.naming import NameMap

WIDER = 10.0

_MEANS = frozenset({"moment1", "velocity"})
"""Slots of the gradient's own size; all others hold squares of it."""


def compare_after_gap(
    step: int,
    names: NameMap,
    comparer: PieceComparer,
    allowances: Allowances,
    state: Tuple[States, States],
    after: Tuple[Arrays, Arrays],
    adrift: AbstractSet[str] = frozenset(),
) -> List[Comparison]:
    """Return the comparisons of optimizer state, then of parameters. What only noise moves is left out where the state tells:
    Adam may move it anywhere; without state it moves by what is nothing beside the model's greatest parameter. So is what
    follows such a tensor, ``adrift``.
    """
    largest = largest_slots(state[0], allowances.size)
    rounding = allowances.noise_part() * max(map(allowances.size, after[0].values()), default=0.0)
    states: List[Comparison] = []
    parameters: List[Comparison] = []
    for piece in names.pieces:
        name = piece.name
        if piece.kind != "parameter" or name in adrift or (name not in after[0] and name not in after[1]):
            continue
        slots: Tuple[Arrays, Arrays] = (state[0].get(name, {}), state[1].get(name, {}))
        if all(_is_noise(side, largest, allowances) for side in slots):
            continue
        for slot in sorted({*slots[0], *slots[1]}):
            rtol, atol = allowances.after_gap(slots[0].get(slot), WIDER)
            states.append(comparer.compare("optimizer_state", step, f"{name}/{slot}", slots, rtol, atol, slot))
        rtol, atol = allowances.after_gap(after[0].get(name), WIDER)
        parameters.append(comparer.compare("parameter", step, name, after, rtol, atol + rounding))
    return states + parameters


def _is_noise(slots: Arrays, largest: Mapping[str, float], allowances: Allowances) -> bool:
    """Say whether the gradients that one side's state was made of are nothing but noise beside torch's greatest."""
    arrays: List[Tuple[str, np.ndarray]] = [(slot, slots[slot]) for slot in slots if slots[slot].ndim]
    part = allowances.noise_part()
    return bool(arrays) and all(
        allowances.size(array) <= (part if slot in _MEANS else part**2) * largest.get(slot, 0.0) for slot, array in arrays
    )
