"""The batches that both scripts train on under stepalign, in place of their own."""

import numpy as np


def batches(case):
    random = np.random.default_rng(case.seed)
    while True:
        yield {"input_ids": random.integers(200, size=(8, 12)), "labels": random.integers(3, size=8)}
