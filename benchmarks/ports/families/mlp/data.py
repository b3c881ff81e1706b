"""Batches for the mlp family: feature vectors of unequal scale, class labels and regression targets."""

from __future__ import annotations

import numpy as np


def batches(case):
    """Yield ``case.steps`` batches: x [24, 20], y [24] int64, target [24, 10], use_aux [1] int64."""
    rng = np.random.default_rng(case.options.get("data_seed", 11))
    scale = np.exp(rng.normal(0.0, 0.5, size=20))
    for step in range(case.steps):
        x = rng.normal(size=(24, 20)) * scale
        y = rng.integers(0, 10, size=24)
        target = rng.normal(size=(24, 10)) * case.options.get("target_scale", 1.0)
        if case.options.get("empty_targets", False):
            target[:3] = -1.0
        if case.options.get("bad_value", "none") == "nan" and step == 3:
            x[5, 7] = np.nan
        yield {
            "x": x.astype(case.dtype),
            "y": y.astype(np.int64),
            "target": target.astype(case.dtype),
            "use_aux": np.array([step % 2], dtype=np.int64),
        }
