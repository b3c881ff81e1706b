"""Batches for the transformer and encoder families: padded token ids, a mask and class labels."""

from __future__ import annotations

import numpy as np


def batches(case):
    """Yield ``case.steps`` batches: ids [8, 10] int64 (0 is padding), mask [8, 10] int64 (1 keeps), y [8] int64."""
    rng = np.random.default_rng(case.options.get("data_seed", 13))
    for _ in range(case.steps):
        ids = rng.integers(1, 40, size=(8, 10))
        lengths = rng.integers(4, 11, size=8)
        lengths[0] = 10
        mask = (np.arange(10)[None, :] < lengths[:, None]).astype(np.int64)
        y = rng.integers(0, 3, size=8)
        yield {"ids": (ids * mask).astype(np.int64), "mask": mask, "y": y.astype(np.int64)}
