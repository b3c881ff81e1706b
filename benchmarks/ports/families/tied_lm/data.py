"""Batches for the tied language model: token ids and next-token labels with unlabelled padding."""

from __future__ import annotations

import numpy as np


def batches(case):
    """Yield ``case.steps`` batches: ids [6, 9] int64 and labels [6, 9] int64 (-100 is unlabelled)."""
    rng = np.random.default_rng(case.options.get("data_seed", 14))
    for _ in range(case.steps):
        stream = rng.integers(1, 30, size=(6, 10))
        lengths = rng.integers(5, 10, size=6)
        labels = np.where(np.arange(9)[None, :] < lengths[:, None], stream[:, 1:], -100)
        yield {"ids": stream[:, :-1].astype(np.int64), "labels": labels.astype(np.int64)}
