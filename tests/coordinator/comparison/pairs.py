"""Pairs of arrays for hypothesis: what two sides' tensors may hold, and how they may be related."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

Pair = tuple[np.ndarray, np.ndarray]
FLOATS = (np.float16, np.float32, np.float64)
SPECIAL = (0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 6e-8, 65504.0)
TOLERANCES = st.tuples(st.sampled_from((0.0, 1e-5, 0.5)), st.sampled_from((0.0, 1e-7, 1.0, 1e30)))


@st.composite
def pairs(draw: st.DrawFn, dtypes: tuple[Any, ...] = FLOATS, finite: bool = False) -> Pair:
    """Give two arrays of one shape and dtype, related in one of the ways that two sides' tensors are."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=3, max_side=7))
    values = st.floats(width=dtype.itemsize * 8, allow_nan=not finite, allow_infinity=not finite)
    special = [value for value in SPECIAL if math.isfinite(value) or not finite]
    elements = st.one_of(values, st.sampled_from([float(dtype.type(value)) for value in special]))
    reference = draw(arrays.arrays(dtype, shape, elements=elements))
    how = draw(st.sampled_from(("equal", "rounding", "apart", "one element")))
    if how == "apart":
        return reference, draw(arrays.arrays(dtype, shape, elements=elements))
    candidate = np.array(reference)
    if how == "rounding":
        with np.errstate(all="ignore"):
            candidate = np.nextafter(reference, dtype.type(1.0)).astype(dtype)
    elif how == "one element" and candidate.size:
        candidate.reshape(-1)[draw(st.integers(0, candidate.size - 1))] = draw(elements)
    if candidate.ndim > 1 and draw(st.booleans()):
        candidate = np.asfortranarray(candidate)
    return reference, candidate
