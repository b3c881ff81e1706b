"""Explains outputs that hold the same numbers elsewhere, or differ in some rows, channels or at the border only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.proportions import factors_shown, row_factors
from stepalign.coordinator.diagnosis.wording import number


def explain_layout(where: str, ours: Array, theirs: Array, before: float, noise: float) -> Iterator[Cause]:
    """Yield the causes that relate two outputs of ``where`` by their places, of equal or different shapes."""
    if ours.shape != theirs.shape:
        yield from _shapes(where, ours, theirs, noise)
        return
    axes = fit.swapped_axes(ours, theirs)
    if axes is not None:
        evidence = f"{where}: paddle's output is torch's with axes {axes[0]} and {axes[1]} exchanged"
        yield Cause(
            Category.FORWARD, "layout", 0.95, evidence, f"exchange the two axes after {where} in the paddle model"
        )
        return
    for axis in range(ours.ndim):
        order = fit.permutation(ours, theirs, axis)
        if order is not None:
            evidence = (
                f"{where}: paddle's output is torch's in another order along axis {axis} ({fit.rows_shown(order)})"
            )
            fix = f"check the order along axis {axis} at {where}: concatenation, split, heads, channel shuffle"
            yield Cause(Category.FORWARD, "permuted", 0.93, evidence, fix)
            return
    if _same_numbers(ours, theirs, before, noise):
        evidence = f"{where}: both outputs hold the same numbers at other places"
        fix = (
            f"check reshape and transpose at {where}: a reshape where torch permutes keeps the shape and moves the "
            "numbers"
        )
        yield Cause(Category.FORWARD, "layout", 0.85, evidence, fix)
        return
    yield from _rows(where, ours, theirs, noise)
    yield from _border(where, ours, theirs, noise)
    for axis in range(1, ours.ndim):
        factors, after = fit.per_slice_factor(ours, theirs, axis)
        if ours.size > 2 * ours.shape[axis] and fit.explains(before, after, noise) and np.ptp(factors) > noise:
            evidence = (
                f"{where}: along axis {axis} paddle is torch times a factor for each index "
                f"({number(float(np.min(factors)))} to {number(float(np.max(factors)))}; left over {after:.1g})"
            )
            fix = (
                f"check what scales axis {axis} at {where}: a norm's weight, epsilon or running variance, an "
                "embedding scale"
            )
            yield Cause(Category.FORWARD, "channel_scale", fit.certainty(before, after, noise, 0.75), evidence, fix)
            return
    yield from _row_factors(where, ours, theirs, noise)


def _same_numbers(ours: Array, theirs: Array, before: float, noise: float) -> bool:
    """Say whether both hold the same numbers: nearer to each other in order of size than where they stand."""
    if ours.size <= 2:
        return False
    a, b = np.sort(ours, axis=None), np.sort(theirs, axis=None)
    return np.allclose(a, b, rtol=10 * noise, atol=0.0) and fit.left_over(a, b) <= fit.EXPLAINED * before


def _row_factors(where: str, ours: Array, theirs: Array, noise: float) -> Iterator[Cause]:
    """Find outputs whose samples, or vectors of the last axis, are torch's times a factor each."""
    for kind, what, factors in row_factors(ours, theirs, noise):
        if kind == "rows":
            evidence = f"{where}: paddle is torch times a factor for each {what} ({factors_shown(factors)})"
            fix = (
                f"look at what scales a whole sample or position at {where}: weights that are not normalised to one, a "
                "norm, a length or count that is divided by"
            )
            yield Cause(Category.FORWARD, "row_scale", 0.8, evidence, fix)
            return


def _shapes(where: str, ours: Array, theirs: Array, noise: float) -> Iterator[Cause]:
    if ours.size == theirs.size:
        if fit.left_over(ours.ravel(), theirs.ravel()) <= noise:
            evidence = f"{where}: the same numbers in the shape {ours.shape} in torch and {theirs.shape} in paddle"
            yield Cause(
                Category.FORWARD, "layout", 0.95, evidence, f"reshape paddle's output of {where} to {ours.shape}"
            )
            return
        for first in range(ours.ndim):
            for second in range(first + 1, ours.ndim):
                if fit.left_over(theirs, np.swapaxes(ours, first, second)) <= noise:
                    evidence = f"{where}: paddle's output is torch's with axes {first} and {second} exchanged"
                    fix = "paddle's recurrent and attention layers are batch-first: transpose, or use time_major=True"
                    yield Cause(Category.FORWARD, "layout", 0.97, evidence, fix)
                    return
    evidence = f"{where}: the output has the shape {ours.shape} in torch and {theirs.shape} in paddle"
    fix = f"compare the sizes, strides, padding and flattening of {where} with torch's"
    yield Cause(Category.FORWARD, "shape", 0.8, evidence, fix)


def _rows(where: str, ours: Array, theirs: Array, noise: float) -> Iterator[Cause]:
    """Find outputs that differ in whole vectors of the last axis only."""
    if ours.ndim < 2:
        return
    a, b = ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, ours.shape[-1])
    rows = fit.differing_rows(a, b, noise)
    if not 0 < rows.size < a.shape[0]:
        return
    share = f"{rows.size} of {a.shape[0]} vectors differ"
    if a.shape[1] > 1 and (not np.any(b[rows]) or not np.any(a[rows])):
        side = "paddle" if not np.any(b[rows]) else "torch"
        evidence = f"{where}: {share}, all zero in {side} and nowhere else"
        fix = (
            "paddle.nn.Embedding(padding_idx=...) returns zeros for that index, torch returns the row: zero the row "
            "in torch's weights, "
            "or leave padding_idx out; otherwise compare the masks"
        )
        yield Cause(Category.FORWARD, "padding_idx", 0.9, evidence, fix)
    elif rows.size <= a.shape[0] // 2:
        evidence = f"{where}: {share} (first {fit.rows_shown(rows)}), the others agree"
        fix = (
            f"compare the masks and the padding that reach {where}: which positions are kept, and whether True keeps "
            "or hides"
        )
        yield Cause(Category.FORWARD, "mask", 0.5, evidence, fix)


def _border(where: str, ours: Array, theirs: Array, noise: float) -> Iterator[Cause]:
    """Find images that agree inside and differ at the border, as two treatments of padding do."""
    if ours.ndim not in (3, 4, 5) or any(size < 3 for size in ours.shape[2:]):
        return
    inside = (slice(None), slice(None), *(slice(1, -1) for _ in ours.shape[2:]))
    if fit.left_over(ours[inside], theirs[inside]) > noise:
        return
    mask = np.ones(ours.shape, dtype=bool)
    mask[inside] = False
    border = mask & (ours != 0.0)
    ratios = np.unique(np.round(theirs[border] / ours[border], 3))
    pooled = ratios.size <= 2 ** (ours.ndim - 2) + 1
    evidence = f"{where}: the inside agrees, the border differs" + (
        f" by the factors {', '.join(number(float(ratio)) for ratio in ratios[:4])}" if pooled else ""
    )
    if pooled:
        fix = (
            f"exclusive=False in paddle's average pooling of {where}: torch counts the padding "
            "(count_include_pad=True) by default"
        )
        yield Cause(Category.FORWARD, "pool_padding", 0.93, evidence, fix)
    else:
        yield Cause(Category.FORWARD, "padding_mode", 0.8, evidence, f"padding and padding_mode of {where} as in torch")
