"""Explains one vector that is taken of many: a position, the mean, the greatest or the sum along one axis of what came before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.wording import value_of

_FITS = 2e-6
_SHOWN = 6

_SOURCES = 4
"""Of so many outputs one vector is looked for."""


def explain_pooling(
    where: str, agreed: Sequence[tuple[str, Array]], ours: Array, theirs: Array
) -> Iterator[Cause]:
    """Find what each side takes of one of ``agreed``, outputs in which both sides agree, the last ones first, along one axis.

    Both directions of a recurrent layer stand in one output, half of its features each, and end at opposite positions.
    """
    if ours.shape != theirs.shape:
        return
    for source, before in reversed(agreed[-_SOURCES:]):
        for axis in range(1, before.ndim):
            if before.shape[:axis] + before.shape[axis + 1 :] != ours.shape or before.shape[axis] < 2:
                continue
            torch, paddle = (_taken(before, axis, side) or _of_halves(before, axis, side) for side in (ours, theirs))
            if torch and paddle and torch != paddle:
                evidence = f"{where}: along axis {axis} of {value_of(source)} torch takes {torch}, paddle {paddle}"
                fix = f"take {torch} along axis {axis} of {value_of(source)} in paddle"
                yield Cause(Category.FORWARD, "pooling", 0.96, evidence, fix)
                return


def _of_halves(before: Array, axis: int, output: Array) -> str:
    """Say what the two halves of an output's features are; empty where one fits nothing, or there are none."""
    half, odd = divmod(before.shape[-1], 2)
    if odd or not half or axis == before.ndim - 1:
        return ""
    first, second = (_taken(before[..., part], axis, output[..., part]) for part in (np.s_[:half], np.s_[half:]))
    return f"{first} for the first half of the features and {second} for the second" if first and second else ""


def _taken(before: Array, axis: int, output: Array) -> str:
    """Say what an output is of ``before`` along an axis; empty where nothing fits."""
    for said, value in (
        ("the mean", np.mean(before, axis=axis)),
        ("the greatest", np.max(before, axis=axis)),
        ("the sum", np.sum(before, axis=axis)),
    ):
        if fit.left_over(output, value) <= _FITS:
            return said
    moved = np.moveaxis(before, axis, 1)
    apart = np.abs(moved - output[:, None]).reshape(*moved.shape[:2], -1).max(axis=2)
    if np.any(apart.min(axis=1) > _FITS * max(float(np.max(np.abs(output))), 1e-300)):
        return ""
    places = apart.argmin(axis=1)
    if np.all(places == places[0]):
        return f"position {places[0]} of {before.shape[axis]}"
    shown = ", ".join(str(place) for place in places[:_SHOWN])
    return f"positions {shown}{', ...' if len(places) > _SHOWN else ''}"
