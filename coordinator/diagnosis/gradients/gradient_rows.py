"""Explains one parameter's gradient by its layout, its rows or its channels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.wording import number

EMBEDDINGS = ("Embedding", "EmbeddingBag")


def explain_rows(name: str, ours: Array, theirs: Array, before: float, noise: float, module_type: str) -> Iterator[Cause]:
    """Yield what relates two gradients of ``name`` of one shape; at most one cause.

    ``before`` is the relative difference, ``noise`` what of it rounding explains. ``module_type`` is torch's type of the
    module that the parameter belongs to, empty where it is unknown.
    """
    after = fit.transposed(ours, theirs)
    if fit.explains(before, after, noise):
        fix = f"transpose the weight of {name}: paddle.nn.Linear keeps [in, out], torch.nn.Linear [out, in]"
        evidence = f"paddle's gradient of {name} is torch's transposed (left over {after:.1g})"
        yield Cause(Category.INITIAL_WEIGHTS, "transposed", fit.certainty(before, after, noise, 0.95), evidence, fix)
        return
    for axis in range(ours.ndim):
        order = fit.permutation(ours, theirs, axis)
        if order is not None:
            evidence = f"paddle's gradient of {name} is torch's in another order along axis {axis}"
            fix = f"check the order of what feeds {name} (concatenation, gates, heads, flattening) in the paddle model"
            yield Cause(Category.BACKWARD, "permuted", 0.9, evidence, fix)
            return
    rows = fit.differing_rows(ours, theirs, noise)
    if ours.ndim == 2 and 0 < rows.size < ours.shape[0] and rows.size <= max(1, ours.shape[0] // 4):
        yield _some_rows(name, ours, theirs, rows, module_type)
        return
    by_one = fit.factor(ours, theirs)[1]
    for axis in range(ours.ndim if ours.ndim > 1 else 0):
        factors, after = fit.per_slice_factor(ours, theirs, axis)
        factors = factors[np.any(np.moveaxis(ours, axis, 0).reshape(factors.size, -1), axis=1)]
        if ours.size > ours.shape[axis] and factors.size and fit.explains(min(before, by_one), after, noise):
            evidence = (
                f"paddle's gradient of {name} is torch's times a factor for each index of axis {axis} "
                f"({number(float(np.min(factors)))} to {number(float(np.max(factors)))})"
            )
            fix = f"look for a scale for each channel after {name}: a norm's epsilon or statistics, class weights"
            yield Cause(Category.BACKWARD, "channel_scale", fit.certainty(before, after, noise, 0.7), evidence, fix)
            return


def _some_rows(name: str, ours: Array, theirs: Array, rows: np.ndarray, module_type: str) -> Cause:
    silent = not np.any(theirs[rows]) or not np.any(ours[rows])
    side = "paddle" if not np.any(theirs[rows]) else "torch"
    evidence = f"only row(s) {fit.rows_shown(rows)} of {ours.shape[0]} of the gradient of {name} differ"
    evidence += f"; {side}'s are zero" if silent else ""
    if module_type in ("", *EMBEDDINGS):
        fix = (
            "give paddle.nn.Embedding torch's padding_idx, or the loss torch's ignore_index: such rows get no gradient"
        )
        return Cause(Category.BACKWARD, "some_rows", 0.85 if silent else 0.6, evidence, fix)
    fix = (
        f"a row of this weight is one output of {name.rpartition('.')[0] or name}: compare what both scripts compute from "
        f"output(s) {fit.rows_shown(rows)}; the others agree"
    )
    return Cause(Category.BACKWARD, "some_rows", 0.6, evidence, fix)
