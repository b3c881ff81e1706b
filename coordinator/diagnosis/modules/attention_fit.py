"""Attention as a formula of its projections: which heads, rotary positions, masks and scales give an output.

A formula is tried on the first sample alone and on a few of its queries: what they see are all keys. Nothing is fitted; a
formula gives the numbers to rounding or it does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations, product

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array

_QUERIES = 12
_LONGEST = 4096
_SHORT = 512
"""For a softmax over the queries all of them are needed."""
_BASES = (1e4, 5e5, 1e6, 1e5, 1e3, 2e4, 5e4, 2e5, 2e6, 1e7)
_TORCH_BASES = 4
"""Of that many bases torch's own is looked for with every other choice."""

_MARGIN = 1e-4
"""Of the greatest value: how far rounding may take an output beyond the values."""

_LOOSELY = 10.0
"""So much more may be left over of a single query's output, which may be a small one."""

Masks = Mapping[str, Array]
"""What is added to the scores, by its name: of any shape that goes with [heads, length, length]."""


@dataclass(frozen=True)
class Formula:
    """One way to compute attention from what three projections give.

    order: which projection is query, key and value. groups: heads that have keys of their own, in which the key heads are
    repeated each (``interleaved``) or as a whole (``tiled``). rotary: pairs are the two halves of a head or neighbours.
    softmax: over which axis the scores sum to one. fused: how one projection holds all three, ``heads`` if query, key and
    value of each head stand together.
    """

    heads: int
    groups: int
    order: tuple[int, int, int] = (0, 1, 2)
    repeated: str = "interleaved"
    rotary: str = "none"
    rotated: str = "both"
    direction: int = 1
    base: float = 0.0
    scale: str = "head"
    mask: str = "none"
    softmax: str = "keys"
    fused: str = "thirds"


def compute(formula: Formula, projections: Sequence[Array], masks: Masks, queries: Array) -> Array | None:
    """Return the output of some queries, [queries, width], of projections [length, width]; None where sizes do not fit."""
    if formula.fused != "thirds":
        projections = _of_each_head(projections, formula.heads, formula.fused)
    q, k, v = (projections[place] for place in formula.order)
    length, size = q.shape[0], q.shape[1] // formula.heads
    if k.shape[1] != formula.groups * size or v.shape[1] != k.shape[1]:
        return None
    q, k, v = (x.reshape(length, -1, size).swapaxes(0, 1) for x in (q, k, v))
    along, asked = (-1, queries) if formula.softmax == "keys" else (-2, np.arange(length))
    q = q[:, asked]
    if formula.rotary != "none":
        angle = np.outer(formula.direction * np.arange(length), formula.base ** (-np.arange(0, size, 2) / size))
        q = q if formula.rotated == "keys" else _rotate(q, angle[asked], formula.rotary)
        k = k if formula.rotated == "queries" else _rotate(k, angle, formula.rotary)
    times = formula.heads // formula.groups
    if formula.repeated == "interleaved":
        k, v = k.repeat(times, 0), v.repeat(times, 0)
    else:
        k, v = np.tile(k, (times, 1, 1)), np.tile(v, (times, 1, 1))
    scale = {"head": size**-0.5, "model": (size * formula.heads) ** -0.5, "none": 1.0}[formula.scale]
    scores = q @ k.swapaxes(1, 2) * scale
    if formula.mask != "none":
        scores = scores + np.broadcast_to(masks[formula.mask], (formula.heads, length, length))[:, asked]
    scores = np.exp(scores - np.max(scores, axis=along, keepdims=True))
    weights = scores / np.sum(scores, axis=along, keepdims=True)
    output = (weights if formula.softmax == "keys" else weights[:, queries]) @ v
    return np.asarray(output.swapaxes(0, 1).reshape(len(queries), -1))


def _of_each_head(projections: Sequence[Array], heads: int, fused: str) -> Sequence[Array]:
    """Return query, key and value as they are where one projection holds them head by head, or number by number."""
    whole = np.concatenate(projections, axis=1)
    length = whole.shape[0]
    shape, axis = ((length, heads, 3, -1), 2) if fused == "heads" else ((length, -1, 3), 2)
    parts = whole.reshape(shape)
    return [np.take(parts, place, axis).reshape(length, -1) for place in range(3)]


def _rotate(x: Array, angle: Array, pairs: str) -> Array:
    cos, sin = np.cos(angle), np.sin(angle)
    if pairs == "halves":
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    first, second = x[..., 0::2], x[..., 1::2]
    return np.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(x.shape)


def usable_masks(masks: Masks, length: int) -> dict[str, Array]:
    """Return the given masks of the first sample that go with its scores, and the causal ones."""
    found: dict[str, Array] = {}
    for name, mask in masks.items():
        added = np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask.astype(np.float64)
        added = added[0] if added.ndim > 2 else added
        fits = added.ndim in (2, 3) and all(size in (1, length) for size in added.shape[-2:])
        if fits and np.isfinite(added).any(axis=-1).all():
            found[name] = added
    for shift, name in ((0, "causal"), (1, "causal and one position more")):
        found[name] = np.where(np.triu(np.ones((length, length), bool), 1 + shift), -np.inf, 0.0)
    return found


def find_formulas(
    projections: Sequence[Array],
    masks: Masks,
    ours: Array,
    theirs: Array,
    residuals: Sequence[Array | float],
    noise: float,
) -> tuple[int, Formula, Formula] | None:
    """Return the formulas that give both outputs, [length, width] of one sample, each plus one of ``residuals``, and which;
    None where none gives torch's or paddle's. A formula is computed once for all of them.
    """
    length, width = ours.shape
    if not 1 < length <= _LONGEST or len(projections) != 3 or projections[0].shape != ours.shape:
        return None
    queries = np.unique(np.linspace(0, length - 1, min(length, _QUERIES)).astype(int))
    sums = {
        number: ours[queries] - _rows(residual, queries)
        for number, residual in enumerate(residuals)
        if _may_be_weighted(projections[2], ours - residual)
    }
    known = usable_masks(masks, length)
    for formula in _torch_formulas(projections, width, masks, known) if sums else ():
        for number in _given_by(formula, projections, known, sums, queries, noise):
            output = {number: theirs[queries] - _rows(residuals[number], queries)}
            changed = (each for count in (1, 2) for each in _changed(formula, projections, width, known, count))
            for paddle in changed:
                if _given_by(paddle, projections, known, output, queries, noise):
                    return number, formula, paddle
            return None
    return None


def _rows(residual: Array | float, queries: Array) -> Array | float:
    return residual[queries] if isinstance(residual, np.ndarray) else residual


def _may_be_weighted(values: Array, output: Array) -> bool:
    """Say whether an output lies nowhere beyond the values: softmax weighs them by parts of one, whatever the scores are."""
    axis = 0 if values.shape == output.shape else None
    least, most = np.min(values, axis=axis), np.max(values, axis=axis)
    margin = _MARGIN * float(np.max(np.abs(values)))
    return bool(np.all(output >= least - margin) and np.all(output <= most + margin))


def differing(torch: Formula, paddle: Formula) -> list[str]:
    """Return the names of the fields in which two formulas differ; key groups follow from the heads."""
    names = [field.name for field in fields(Formula) if getattr(torch, field.name) != getattr(paddle, field.name)]
    return [name for name in names if name != "groups" or "heads" not in names]


def _given_by(
    formula: Formula, projections: Sequence[Array], masks: Masks, outputs: Mapping[int, Array], queries: Array, noise: float
) -> list[int]:
    """Return which of some outputs, rows of ``queries``, a formula gives; most it fails to at the last row already."""
    last = compute(formula, projections, masks, queries[-1:])
    if last is None:
        return []
    near = [number for number, rows in outputs.items() if fit.left_over(rows[-1:], last) <= _LOOSELY * noise]
    fitted = compute(formula, projections, masks, queries) if near else None
    return [] if fitted is None else [number for number in near if fit.left_over(outputs[number], fitted) <= noise]


def _splits(projections: Sequence[Array], width: int) -> Iterator[tuple[int, int]]:
    """Yield (heads, key groups) that the widths allow, heads of a common size first."""
    narrow = min(projection.shape[1] for projection in projections)
    sizes = [size for size in range(1, width + 1) if width % size == 0 and narrow % size == 0]
    for size in sorted(sizes, key=lambda size: (size not in (64, 128, 32, 96, 80), size == 1, abs(size - 32))):
        if (width // size) % (narrow // size) == 0:
            yield width // size, narrow // size


def _rotations(bases: Sequence[float]) -> Iterator[tuple[str, float]]:
    yield "none", 0.0
    yield from product(("halves", "neighbours"), bases)


def _torch_formulas(projections: Sequence[Array], width: int, given: Masks, known: Masks) -> Iterator[Formula]:
    masks = ["none", "causal", *(name for name in given if name in known)]
    splits = list(_splits(projections, width))
    for (rotary, base), (heads, groups) in product(_rotations(_BASES[:_TORCH_BASES]), splits):
        if rotary != "none" and (width // heads) % 2:
            continue
        repetitions = ("interleaved", "tiled") if 1 < groups < heads else ("interleaved",)
        for mask, scale, repeated in product(masks, ("head", "none"), repetitions):
            yield Formula(heads, groups, (0, 1, 2), repeated, rotary, "both", 1, base, scale, mask)


def _changed(
    torch: Formula, projections: Sequence[Array], width: int, known: Masks, number: int
) -> Iterator[Formula]:
    """Yield torch's formula with so many of its choices made otherwise."""
    choices: dict[str, list[dict[str, object]]] = {
        "mask": [{"mask": name} for name in ("none", *known)],
        "order": [{"order": order} for order in ((0, 2, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1))],
        "scale": [{"scale": scale} for scale in ("head", "model", "none")],
        "fused": [{"fused": fused} for fused in ("thirds", "heads", "numbers")],
    }
    if projections[0].shape[0] <= _SHORT:
        choices["softmax"] = [{"softmax": axis} for axis in ("keys", "queries")]
    if torch.groups != torch.heads:
        del choices["fused"]
    if torch.groups < torch.heads:
        choices["repeated"] = [{"repeated": how} for how in ("interleaved", "tiled")]
    if number == 1:
        splits = [(h, g) for h, g in _splits(projections, width) if torch.rotary == "none" or (width // h) % 2 == 0]
        choices["heads"] = [{"heads": heads, "groups": groups} for heads, groups in splits]
    if torch.rotary == "none":
        choices["rotary"] = [{"rotary": rotary, "base": base} for rotary, base in _rotations(_BASES)]
    else:
        choices["rotary"] = [{"rotary": pairs} for pairs in ("halves", "neighbours", "none")]
        choices["base"] = [{"base": base} for base in _BASES]
        choices["direction"] = [{"direction": -1}]
        choices["rotated"] = [{"rotated": which} for which in ("queries", "keys")]
    for kinds in combinations(choices, number):
        for chosen in product(*(choices[kind] for kind in kinds)):
            changes = {key: value for choice in chosen for key, value in choice.items()}
            changed = replace(torch, **changes)  # type: ignore[arg-type]
            if all(any(getattr(torch, key) != value for key, value in choice.items()) for choice in chosen):
                yield changed
