"""Batches for the decoder family: token ids and next-token labels, padding unlabelled."""

from __future__ import annotations

import numpy as np


def batches(case):
    """Yield ``case.steps`` batches: ids [4, 12] int64 and labels [4, 12] int64 (-100 is unlabelled)."""
    rng = np.random.default_rng(case.options.get("data_seed", 17))
    for _ in range(case.steps):
        stream = rng.integers(1, 40, size=(4, 13))
        lengths = rng.integers(6, 13, size=4)
        labels = np.where(np.arange(12)[None, :] < lengths[:, None], stream[:, 1:], -100)
        yield {"ids": stream[:, :-1].astype(np.int64), "labels": labels.astype(np.int64)}
