"""Explains initial weights that differ that both sides were given: layout, gate order, scale, rows, not loaded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.ranking import rank
from stepalign.coordinator.diagnosis.wording import count, names, number

_UNRELATED = 0.2


def explain_initial_weights(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[Cause]:
    """Return the causes that explain why initial weights differ, most likely first; none where they agree.

    ``pairs`` maps torch's names to (torch, paddle) arrays, paddle's as it would be in torch's layout.
    """
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    kept: dict[tuple[str, str], Cause] = {}
    alone: list[str] = []
    everything = {name: fit.as_array(torch) for name, (torch, _) in pairs.items()}
    differing = 0
    for name, (torch, paddle) in pairs.items():
        if torch.shape == paddle.shape and np.array_equal(torch, paddle):
            continue
        ours, theirs = everything[name], fit.as_array(paddle)
        cause = _one(name, ours, theirs, torch.dtype, everything)
        differing += 1
        if cause is None:
            alone.append(name)
            continue
        key = (cause.category.value, cause.code)
        kept.setdefault(key, cause)
        found.setdefault(key, []).append((name, cause.evidence))
    causes = [_grouped(kept[key], [name for name, _ in entries]) for key, entries in found.items()]
    if alone:
        all_of_them = len(alone) == len(pairs)
        causes.append(
            Cause(
                Category.INITIAL_WEIGHTS,
                "not_loaded",
                0.9 if all_of_them else 0.75,
                f"{count(len(alone), 'tensor')} of {len(pairs)} bear no relation to torch's: {names(alone)}",
                "load the weights into the paddle model (set_state_dict with names that match), and do not "
                "initialise after it",
            )
        )
    return rank(causes)


def _grouped(cause: Cause, same: list[str]) -> Cause:
    if len(same) == 1:
        return cause
    evidence = f"{cause.evidence}; the same for {count(len(same), 'tensor')}: {names(same)}"
    return Cause(cause.category, cause.code, cause.confidence, evidence, cause.fix)


def _one(
    name: str, ours: Array, theirs: Array, dtype: np.dtype[np.generic], everything: Mapping[str, Array]
) -> Cause | None:
    """Return what explains one tensor, or None where nothing relates the two."""
    if ours.shape != theirs.shape:
        if ours.ndim >= 2 and fit.transposed(ours, theirs) < 1e-6:
            return _transposed(name, "")
        evidence = f"{name} has the shape {ours.shape} in torch and {theirs.shape} in paddle"
        fix = f"give the paddle layer of {name} torch's sizes, or a rename rule for another tensor"
        return Cause(Category.INITIAL_WEIGHTS, "shape", 0.95, evidence, fix)
    if not np.all(np.isfinite(theirs)) and np.all(np.isfinite(ours)):
        fix = "initialise or load this tensor of the paddle model"
        return Cause(Category.NONFINITE, "initial_weights", 0.95, f"{name} is not finite in paddle", fix)
    before = fit.left_over(ours, theirs)
    if before < 1e-2 and dtype.itemsize >= 4:
        return _rounded(name, ours, theirs, before)
    if fit.transposed(ours, theirs) < 1e-6:
        return _transposed(name, "; the matrix is square, so it loads without an error")
    for other, array in everything.items():
        if other != name and array.shape == theirs.shape and np.any(np.ptp(array)) and np.array_equal(array, theirs):
            fix = "correct the names or rename rules of these two tensors"
            evidence = f"paddle's {name} is torch's {other}"
            return Cause(Category.INITIAL_WEIGHTS, "swapped", 0.97, evidence, fix)
    value, after = fit.factor(ours, theirs)
    if ours.size > 1 and after < 1e-5 and value != 0.0:
        evidence = f"paddle's {name} is {number(value)} times torch's"
        return Cause(
            Category.INITIAL_WEIGHTS,
            "scaled",
            0.95,
            evidence,
            f"remove the factor {number(value)} from paddle's initialisation",
        )
    return _order_or_rows(name, ours, theirs)


def _transposed(name: str, note: str) -> Cause:
    return Cause(
        Category.INITIAL_WEIGHTS,
        "transposed",
        0.97,
        f"paddle's {name} is torch's transposed{note}",
        f"transpose {name} when loading: paddle.nn.Linear keeps [in, out] ([weights] transpose in case.toml)",
    )


def _rounded(name: str, ours: Array, theirs: Array, before: float) -> Cause | None:
    with np.errstate(over="ignore"):
        half = ours.astype(np.float16).astype(np.float64)
    single = ours.astype(np.float32)
    brain = ((single.view(np.uint32) + 0x7FFF + ((single.view(np.uint32) >> 16) & 1)) & 0xFFFF0000).view(np.float32)
    for rounded, dtype in (
        (half, "float16"),
        (brain.astype(np.float64), "bfloat16"),
        (single.astype(np.float64), "float32"),
    ):
        if np.array_equal(rounded, theirs):
            evidence = f"paddle's {name} is torch's rounded to {dtype} (relative difference {before:.1g})"
            fix = f"load the weights without going through {dtype}"
            return Cause(Category.PRECISION, "rounded_weights", 0.97, evidence, fix)
    if before < 1e-3:
        evidence = f"paddle's {name} differs from torch's by {before:.1g} (relative L2), more than a copy does"
        fix = "save and load the weights in full precision, and do not train or re-normalise before step 0"
        return Cause(Category.PRECISION, "rounded_weights", 0.5, evidence, fix)
    return _order_or_rows(name, ours, theirs)


def _order_or_rows(name: str, ours: Array, theirs: Array) -> Cause | None:
    for axis in range(ours.ndim):
        order = fit.permutation(ours, theirs, axis)
        if order is None:
            continue
        blocks = fit.block_order(order)
        if blocks is not None and axis == 0:
            evidence = f"paddle's {name} has torch's {len(blocks)} blocks of rows in the order {blocks}"
            fix = "reorder the gates (or q, k, v) of this weight to torch's order when loading"
            return Cause(Category.INITIAL_WEIGHTS, "block_order", 0.97, evidence, fix)
        evidence = f"paddle's {name} is torch's in another order along axis {axis}"
        return Cause(
            Category.INITIAL_WEIGHTS,
            "permuted",
            0.95,
            evidence,
            f"keep torch's order along axis {axis} of {name} when loading",
        )
    if ours.ndim >= 2 and np.any(ours):
        rows = fit.differing_rows(ours, theirs, 1e-7)
        if 0 < rows.size <= _UNRELATED * ours.shape[0]:
            zero = "; they are zero in paddle" if not np.any(theirs[rows]) else ""
            evidence = f"row(s) {fit.rows_shown(rows)} of {ours.shape[0]} of {name} differ{zero}"
            fix = (
                "load these rows too: padding_idx zeroes its row when the paddle layer is built, resizing an "
                "embedding adds rows"
            )
            return Cause(Category.INITIAL_WEIGHTS, "some_rows", 0.9, evidence, fix)
    return None
