"""Batches for the averaged family: two noisy views of one image each, and its class."""

from __future__ import annotations

import numpy as np


def batches(case):
    """Yield ``case.steps`` batches: x and view [8, 3, 8, 8], y [8] int64."""
    rng = np.random.default_rng(case.options.get("data_seed", 19))
    for _ in range(case.steps):
        image = rng.normal(size=(8, 3, 8, 8))
        x, view = (image + 0.3 * rng.normal(size=image.shape) for _ in range(2))
        y = rng.integers(0, 4, size=8)
        yield {"x": x.astype(case.dtype), "view": view.astype(case.dtype), "y": y.astype(np.int64)}
