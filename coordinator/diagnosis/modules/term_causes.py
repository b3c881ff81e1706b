"""Explains a sum that a module's own code makes of what it had before: a term is missing, added or weighed otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.wording import number

_FITS = 2e-6
"""What may be left over of a difference, as a part of the sum that was computed in float32."""

_LEAST = 32
"""Of fewer elements a multiple says little."""

_LEAST_OF_A_CHANNEL = 8

_ONE = 1e-3


def explain_terms(where: str, agreed: Sequence[tuple[str, Array]], ours: Array, theirs: Array) -> Iterator[Cause]:
    """Find the one of ``agreed``, the last one first, of which paddle's sum has more or less than torch's, and nothing else."""
    if ours.shape != theirs.shape or ours.size < _LEAST:
        return
    more, size = theirs - ours, float(np.linalg.norm(ours))
    least = fit.EXPLAINED * float(np.linalg.norm(more))
    for name, array in reversed(agreed):
        term = _spread(array, ours.shape)
        square = 0.0 if term is None else float(np.vdot(term, term))
        if term is None or not square:
            continue
        weight = float(np.vdot(term, more)) / square
        if float(np.linalg.norm(more - weight * term)) <= min(_FITS * size, least):
            yield _cause(where, name, weight)
            return
        if term.ndim < 2 or term.shape[-1] < 2 or term.size < _LEAST_OF_A_CHANNEL * term.shape[-1]:
            continue
        weights, _ = fit.per_slice_factor(term, more, term.ndim - 1)
        if float(np.linalg.norm(more - weights * term)) <= min(_FITS * size, least):
            yield Cause(
                Category.FORWARD, "term_scaled", 0.93,
                f"{where}: paddle's is torch's plus {name} times a weight for each channel ({number(float(np.min(weights)))} to "
                f"{number(float(np.max(weights)))})",
                f"weigh each channel of {name} in {where} of the paddle model as torch does: a layer scale, a gate",
            )  # fmt: skip
            return


def _spread(array: Array, shape: tuple[int, ...]) -> Array | None:
    """Return an array in a shape that it can be added in; None where it cannot."""
    try:
        return np.broadcast_to(array, shape) if array.size > 1 else None
    except ValueError:
        return None


def _cause(where: str, name: str, weight: float) -> Cause:
    if abs(weight + 1.0) <= _ONE:
        evidence = f"{where}: paddle's is torch's without {name}"
        return Cause(Category.FORWARD, "term_missing", 0.95, evidence, f"add {name} in {where} of the paddle model, as torch does")
    if abs(weight - 1.0) <= _ONE:
        evidence = f"{where}: paddle's is torch's plus {name}"
        fix = f"leave {name} out in {where} of the paddle model, or weigh it as torch does: a layer scale that starts near zero"
        return Cause(Category.FORWARD, "term_added", 0.95, evidence, fix)
    more = f"{where}: paddle's is torch's plus {number(weight)} times {name}"
    evidence = more if weight > 0 else f"{where}: paddle's is torch's minus {number(-weight)} times {name}"
    return Cause(Category.FORWARD, "term_scaled", 0.95, evidence, f"weigh {name} in {where} of the paddle model as torch does")
