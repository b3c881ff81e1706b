"""Batches for the codebook family: smooth one-channel images."""

from __future__ import annotations

import numpy as np


def batches(case):
    """Yield ``case.steps`` batches: x [6, 1, 12, 12]."""
    rng = np.random.default_rng(case.options.get("data_seed", 20))
    for _ in range(case.steps):
        blocks = rng.normal(size=(6, 1, 4, 4)).repeat(3, 2).repeat(3, 3)
        yield {"x": (blocks + 0.1 * rng.normal(size=blocks.shape)).astype(case.dtype)}
