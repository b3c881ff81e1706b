"""Explains outputs that agree but for what lies beyond a bound: one side holds it there, the other lets it pass."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause

_FEWEST_HELD = 3
"""So many values do not come to lie at one bound by chance."""


def explain_bounds(where: str, ours: Array, theirs: Array, noise: float) -> Iterator[Cause]:
    """Find one side's values as the other's, held at a least value, a greatest one, or both."""
    if ours.shape != theirs.shape:
        return
    for free, held, free_side, held_side in ((ours, theirs, "torch", "paddle"), (theirs, ours, "paddle", "torch")):
        bounds = _bounds(free, held, noise)
        if bounds is None:
            continue
        least, greatest, count = bounds
        shown = f"{'(-inf' if least is None else f'[{least:.5g}'}, {'inf)' if greatest is None else f'{greatest:.5g}]'}"
        evidence = (
            f"{where}: {held_side}'s values are {free_side}'s, held to {shown} ({count} of {free.size} lie beyond that in "
            f"{free_side}); all others agree"
        )
        fix = (
            f"look for clip, clamp or hardtanh at {where} of the paddle model: torch lets these values pass"
            if held_side == "paddle"
            else f"hold the values of the paddle model at {where} to {shown}, as clamp or hardtanh does in torch"
        )
        yield Cause(Category.FORWARD, "clamped", 0.93, evidence, fix)
        return


def _bounds(free: Array, held: Array, noise: float) -> tuple[float | None, float | None, int] | None:
    """Return the least and the greatest value of ``held``, each None where it binds nothing, and how many values of ``free``
    lie beyond; None where ``held`` is not ``free`` held to them.
    """
    room = noise * float(np.max(np.abs(free), initial=0.0))
    least, greatest = float(np.min(held)), float(np.max(held))
    below, above = free < least - room, free > greatest + room
    count = int(np.count_nonzero(below | above))
    if count < _FEWEST_HELD or least == greatest or np.any(np.abs(held - np.clip(free, least, greatest)) > room):
        return None
    if least == 0.0 and not above.any():
        return None  # a ReLU, which is told as one
    shown = [float(np.median(held[beyond])) if beyond.any() else None for beyond in (below, above)]
    return shown[0], shown[1], count
