"""Explains masks that differ: which positions one side alone hides, in an argument of any module, and in all that the two
frameworks' attention layers are given, whose masks have other names, shapes and meanings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.protocol.specs import ModuleSpec, Scalar

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]

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


def explain_attention_masks(
    where: str, torch: ModuleSpec, paddle: ModuleSpec, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> list[Cause]:
    """Return which positions are hidden on one side alone from the framework's own multi-head attention.

    ``ours`` and ``theirs`` are the arguments of one call by their names. torch's True hides a position, in ``attn_mask``
    [L, S] or [batch x heads, L, S] and ``key_padding_mask`` [batch, S]; paddle's ``attn_mask``, of what goes with [batch,
    heads, L, S], keeps where it is True or not 0. Numbers are added on both sides. None where masks hide the same, or do
    more than to hide.
    """
    if not torch.type == paddle.type == "MultiheadAttention":
        return []
    named = [name for name in _MASKS if name in ours], [name for name in _MASKS if name in theirs]
    as_torch = "compat" in paddle.framework_class
    ours_hidden = _all_hidden(ours, named[0], True, torch.hyperparameters.get("num_heads"))
    theirs_hidden = _all_hidden(theirs, named[1], as_torch, paddle.hyperparameters.get("num_heads"))
    if ours_hidden is None or theirs_hidden is None:
        return []
    try:
        marks = np.broadcast_arrays(ours_hidden, theirs_hidden)
    except ValueError:
        return []
    if np.array_equal(marks[0], marks[1]):
        return []
    given = [_said(names, int(np.count_nonzero(mark)), mark.size) for names, mark in zip(named, marks)]
    evidence = f"{where}: of the positions of its scores torch's {given[0]}, paddle's {given[1]}"
    if np.array_equal(marks[0], ~marks[1]):
        evidence += "; each hides what the other one keeps"
        fix = (
            f"invert the mask of {where} in the paddle script: a bool mask hides where it is True in torch's MultiheadAttention, "
            "and keeps where it is True in paddle's MultiHeadAttention"
        )
        return [Cause(Category.FORWARD, "mask", 0.97, evidence, fix)]
    if not named[1]:
        fix = (
            f"give {where} of the paddle model torch's mask as attn_mask, True where torch's is False, for scores of "
            "[batch, heads, L, S]"
        )
        return [Cause(Category.FORWARD, "mask", 0.96, evidence, fix)]
    first = [int(place) for place in np.argwhere(marks[0] != marks[1])[0]]
    evidence += f"; they first differ at {first} of [batch, heads, L, S]"
    return [Cause(Category.FORWARD, "mask", 0.95, evidence, f"build the mask of {where} in the paddle script as torch does")]


_MASKS = ("key_padding_mask", "attn_mask")


def _said(names: list[str], hidden: int, size: int) -> str:
    if not names:
        return "masks none"
    return f"{names[0]} and {names[1]} hide {hidden} of {size}" if len(names) > 1 else f"{names[0]} hides {hidden} of {size}"


def _all_hidden(given: Mapping[str, Array], names: list[str], true_hides: bool, heads: Scalar) -> Array | None:
    """Return, as what goes with [batch, heads, L, S], what any of the named masks hides; None where one is not understood."""
    found: Array = np.zeros((1, 1, 1, 1), bool)
    for name in names:
        hidden = _hidden(given[name], true_hides)
        if hidden is None:
            return None
        shape = _shape_beside_scores(name, hidden.shape, heads if true_hides else None)
        try:
            found = found | hidden.reshape(shape)
        except ValueError:
            return None
    return found


def _shape_beside_scores(name: str, shape: tuple[int, ...], heads: Scalar) -> tuple[int, ...]:
    """Return the shape in which a mask goes with scores of [batch, heads, L, S]; its own where it does not.

    With ``heads``, three axes are torch's: [batch x heads, L, S].
    """
    if name == "key_padding_mask":
        return (shape[0], 1, 1, shape[1]) if len(shape) == 2 else (*shape, 0)
    if len(shape) == 3 and isinstance(heads, int):
        return (shape[0] // heads, heads, *shape[1:])
    return (1,) * (4 - len(shape)) + shape if len(shape) <= 4 else (*shape, 0)


def _hidden(mask: Array, true_hides: bool) -> Array | None:
    """Return what one mask hides; None where it adds anything else to the scores."""
    if mask.dtype.kind in "bui":
        return np.asarray(mask != 0 if true_hides else mask == 0)
    hidden: Array = np.asarray(mask <= FORBIDDEN)
    return hidden if mask.dtype.kind == "f" and not mask[~hidden].any() else None


def _marked(torch: np.ndarray, paddle: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the positions that each side marks: those that are forbidden, or whose flag is set."""
    if all(np.all((side == 0) | (side == 1)) for side in (torch, paddle)) and torch.dtype.kind in "bf":
        return torch != 0, paddle != 0
    if torch.dtype.kind != "f":
        return None
    hidden = torch <= FORBIDDEN, paddle <= FORBIDDEN
    shown = np.concatenate([torch[~hidden[0]], paddle[~hidden[1]]])
    return hidden if (hidden[0].any() or hidden[1].any()) and not shown.any() else None
