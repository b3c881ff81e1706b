"""Explains what goes into a module as a gated product, as SwiGLU makes one: f(one output) times another output before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.modules.elementwise import FUNCTIONS
from stepalign.coordinator.diagnosis.wording import value_of

_FITS = 2e-6
"""What may be left over of a product that is computed in float32."""

_SAMPLE = 4096


def explain_gate(where: str, agreed: Sequence[tuple[str, Array]], ours: Array, theirs: Array) -> Iterator[Cause]:
    """Find the two outputs, by name, whose gated product each side gives on, where both sides gate otherwise.

    ``agreed`` are the outputs before, in which both sides agree.
    """
    alike = [(name, array) for name, array in agreed if array.shape == ours.shape]
    if len(alike) < 2 or ours.shape != theirs.shape:
        return
    step = max(1, ours.size // _SAMPLE)
    sampled = {name: array.ravel()[::step] for name, array in alike}
    torch, paddle = (_gated(sampled, side.ravel()[::step]) for side in (ours, theirs))
    if torch is None or paddle is None or torch == paddle:
        return
    (function, gate, other), (their_function, their_gate, _) = torch, paddle
    if gate != their_gate:
        evidence = (
            f"{where}: torch gives on {function} of {gate} times {other}, paddle {their_function} of {their_gate} "
            f"times {paddle[2]}"
        )
        fix = f"apply {function} to {value_of(gate)} in paddle, or exchange the two when loading"
        yield Cause(Category.FORWARD, "gate_swapped", 0.96, evidence, fix)
    elif function != their_function:
        evidence = (
            f"{where}: the gate, {value_of(gate)}, goes through {function} in torch and through {their_function} "
            "in paddle"
        )
        fix = f"use {function} for the gate in {where} of the paddle model"
        yield Cause(Category.FORWARD, "activation_function", 0.96, evidence, fix)


def _gated(outputs: dict[str, Array], product: Array) -> tuple[str, str, str] | None:
    """Return (function, gate, other) of the one gated product of two outputs that fits best; None where none fits."""
    best = _FITS, ("", "", "")
    for gate, other in permutations(outputs, 2):
        for name, function in FUNCTIONS.items():
            left = fit.left_over(product, function(outputs[gate]) * outputs[other])
            if left < best[0]:
                best = left, (name, gate, other)
    return best[1] if best[1][0] else None
