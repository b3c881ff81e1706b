"""Batches for the convnet family: small colour images and class labels."""

from __future__ import annotations

import numpy as np


def batches(case):
    """Yield ``case.steps`` batches: x [16, 3, 12, 12], y [16] int64."""
    rng = np.random.default_rng(case.options.get("data_seed", 12))
    for _ in range(case.steps):
        y = rng.integers(0, 5, size=16)
        x = rng.normal(size=(16, 3, 12, 12)) + 0.3 * y[:, None, None, None]
        yield {"x": x.astype(case.dtype), "y": y.astype(np.int64)}
