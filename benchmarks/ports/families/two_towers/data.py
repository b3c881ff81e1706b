"""Batches for the two_towers family: images and the captions that belong to them."""

from __future__ import annotations

import numpy as np


def batches(case):
    """Yield ``case.steps`` batches: image [12, 3, 8, 8] and ids [12, 7] int64, whose greatest id ends the caption."""
    rng = np.random.default_rng(case.options.get("data_seed", 18))
    for _ in range(case.steps):
        ids = rng.integers(1, 40, size=(12, 7))
        lengths = rng.integers(3, 8, size=12)
        places = np.arange(7)[None, :]
        ids = np.where(places < lengths[:, None] - 1, ids, np.where(places == lengths[:, None] - 1, 40, 0))
        yield {"image": rng.normal(size=(12, 3, 8, 8)).astype(case.dtype), "ids": ids.astype(np.int64)}
