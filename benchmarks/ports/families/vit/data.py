"""Batches for the vit family: small images and class labels."""

from __future__ import annotations

import numpy as np


def batches(case):
    """Yield ``case.steps`` batches: x [8, 3, 16, 16], y [8] int64."""
    rng = np.random.default_rng(case.options.get("data_seed", 15))
    for _ in range(case.steps):
        x = rng.normal(size=(8, 3, 16, 16))
        yield {"x": x.astype(case.dtype), "y": rng.integers(0, 4, size=8).astype(np.int64)}
