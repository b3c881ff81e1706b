"""Batches for the unet family: one-channel images and segmentation labels."""

from __future__ import annotations

import numpy as np


def batches(case):
    """Yield ``case.steps`` batches: x [4, 1, 16, 16], y [4, 16, 16] int64 in three classes."""
    rng = np.random.default_rng(case.options.get("data_seed", 16))
    for _ in range(case.steps):
        y = rng.integers(0, 3, size=(4, 4, 4)).repeat(4, 1).repeat(4, 2)
        x = y[:, None] - 1.0 + rng.normal(size=(4, 1, 16, 16))
        yield {"x": x.astype(case.dtype), "y": y.astype(np.int64)}
