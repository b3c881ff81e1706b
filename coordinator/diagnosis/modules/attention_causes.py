"""Explains what a module's own code makes of three projections as attention, by the formula that gives each side's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.modules.attention_fit import Formula, differing, find_formulas
from stepalign.coordinator.diagnosis.wording import number

_FITS = 1e-5
"""What a formula may leave over of an output that was computed in float32; what differs is far more."""

_PLAINLY = 20.0

_FIRST, _LAST = 3, 5
"""Of so many values that came first and last it is tried whether attention was added to them."""


def explain_attention(
    where: str, agreed: Sequence[tuple[str, Array]], masks: Mapping[str, Array], ours: Array, theirs: Array, before: float
) -> Iterator[Cause]:
    """Tell by which choices the two sides' attention differs; ``agreed`` are the outputs before, the same on both sides."""
    if ours.ndim != 3 or ours.shape != theirs.shape or before < _PLAINLY * _FITS:
        return
    added, residuals = zip(*_residuals(agreed, ours.shape), strict=True)
    for names, projections in _projections(agreed, ours.shape):
        found = find_formulas(projections, masks, ours[0], theirs[0], residuals, _FITS)
        if found is None:
            continue
        which, torch, paddle = found
        for choice in differing(torch, paddle):
            yield _cause(where, choice, torch, paddle, names, added[which])
        return


def _residuals(agreed: Sequence[tuple[str, Array]], shape: tuple[int, ...]) -> Iterator[tuple[str, Array | float]]:
    """Yield what attention may be added to, of the first sample: nothing, or what the code had when it began, or last."""
    yield "", 0.0
    like = [(name, array[0]) for name, array in agreed if array.shape == shape]
    yield from [*like[:_FIRST], *like[_FIRST:][-_LAST:]]


def _projections(
    agreed: Sequence[tuple[str, Array]], shape: tuple[int, ...]
) -> Iterator[tuple[tuple[str, ...], tuple[Array, ...]]]:
    """Yield what may be query, key and value of the first sample: the last three outputs of that length, or a third each."""
    long = [(name, array[0]) for name, array in agreed if array.ndim == 3 and array.size and array.shape[:2] == shape[:2]]
    if len(long) >= 3:
        names, arrays = zip(*long[-3:], strict=True)
        yield names, arrays
    if long and long[-1][1].shape[1] == 3 * shape[2]:
        name, array = long[-1]
        yield tuple(f"{third} third of {name}" for third in ("first", "second", "last")), tuple(np.split(array, 3, axis=1))


def _cause(where: str, choice: str, torch: Formula, paddle: Formula, names: tuple[str, ...], added: str) -> Cause:
    ours, theirs = (_said(choice, formula, names) for formula in (torch, paddle))
    heads = f"attention of {torch.heads} heads" if torch.groups == torch.heads else (
        f"attention of {torch.heads} heads on {torch.groups} key heads"
    )  # fmt: skip
    formula = f"{heads} plus {added}" if added else heads
    evidence = f"{where}: {formula} gives both sides' numbers; {_WHAT[choice]}: {ours} in torch, {theirs} in paddle"
    fix = f"{_WHAT[choice]} as in torch, {ours}, in {where} of the paddle model"
    return Cause(Category.FORWARD, "attention_formula", 0.96, evidence, fix)


_WHAT: Mapping[str, str] = {
    "heads": "heads",
    "order": "query, key and value",
    "repeated": "repetition of the key and value heads",
    "rotary": "pairs of the rotary positions",
    "rotated": "what is rotated by position",
    "direction": "direction of the rotation",
    "base": "base of the rotary positions",
    "scale": "factor of the scores",
    "mask": "mask",
    "softmax": "softmax of the scores",
    "fused": "layout of the one projection",
}

_WORDS: Mapping[tuple[str, Any], str] = {
    ("repeated", "interleaved"): "each head in a row (repeat_interleave)",
    ("repeated", "tiled"): "all heads one after the other (tile)",
    ("rotary", "none"): "no rotation",
    ("rotary", "halves"): "the two halves of a head",
    ("rotary", "neighbours"): "neighbouring elements",
    ("direction", 1): "by plus the angle",
    ("direction", -1): "by minus the angle",
    ("scale", "head"): "1 / sqrt(width of a head)",
    ("scale", "model"): "1 / sqrt(width of all heads)",
    ("scale", "none"): "1",
    ("softmax", "keys"): "over the keys (the last axis)",
    ("softmax", "queries"): "over the queries",
    ("fused", "thirds"): "query, key and value of all heads one after the other ([3, heads, width])",
    ("fused", "heads"): "query, key and value of each head together ([heads, 3, width])",
    ("fused", "numbers"): "query, key and value number by number ([heads, width, 3])",
}


def _said(choice: str, formula: Formula, names: tuple[str, ...]) -> str:
    value = getattr(formula, choice)
    if choice == "order":
        return ", ".join(names[place] for place in value)
    if isinstance(value, (int, float)) and choice != "direction":
        return number(float(value)) if value else "none"
    return _WORDS.get((choice, value), str(value))
