"""Explains a mask that a module is given and that differs: which positions it hides on one side alone."""

from __future__ import annotations

import numpy as np

from stepalign.coordinator.diagnosis.cause import Category, Cause

FORBIDDEN = -1e3
"""Masks that are added to scores hold this or less where nothing may be seen: -10000, -1e9, -infinity."""


def explain_mask(where: str, torch: np.ndarray, paddle: np.ndarray) -> list[Cause]:
    """Return that two arrays of one shape mark other positions; none unless both are flags or added to scores."""
    marks = _marked(torch, paddle)
    if marks is None or torch.shape != paddle.shape or np.array_equal(*marks):
        return []
    counts = [int(np.count_nonzero(mark)) for mark in marks]
    first = [int(number) for number in np.argwhere(marks[0] != marks[1])[0]]
    evidence = (
        f"{where} is a mask that marks {counts[0]} of {torch.size} positions in torch and {counts[1]} in paddle; they first "
        f"differ at {first}"
    )
    return [Cause(Category.FORWARD, "mask", 0.9, evidence, f"build {where} in the paddle script as torch does")]


def _marked(torch: np.ndarray, paddle: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the positions that each side marks: those that are forbidden, or whose flag is set."""
    if all(np.all((side == 0) | (side == 1)) for side in (torch, paddle)) and torch.dtype.kind in "bf":
        return torch != 0, paddle != 0
    if torch.dtype.kind != "f":
        return None
    hidden = torch <= FORBIDDEN, paddle <= FORBIDDEN
    shown = np.concatenate([torch[~hidden[0]], paddle[~hidden[1]]])
    return hidden if (hidden[0].any() or hidden[1].any()) and not shown.any() else None
