"""Explains one vector that is taken of many: a position, the mean, the greatest or the sum along one axis of what came before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause

_FITS = 2e-6
_SHOWN = 6


def explain_pooling(where: str, source: str, before: Array, ours: Array, theirs: Array) -> Iterator[Cause]:
    """Find what each side takes of ``before``, the output of ``source`` in which both sides agree, along one axis."""
    if ours.shape != theirs.shape:
        return
    for axis in range(1, before.ndim):
        if before.shape[:axis] + before.shape[axis + 1 :] != ours.shape or before.shape[axis] < 2:
            continue
        torch, paddle = (_taken(before, axis, side) for side in (ours, theirs))
        if torch and paddle and torch != paddle:
            evidence = f"{where}: along axis {axis} of the output of {source} torch takes {torch}, paddle {paddle}"
            fix = f"take {torch} along axis {axis} of the output of {source} in paddle"
            yield Cause(Category.FORWARD, "pooling", 0.96, evidence, fix)
            return


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
