"""Batches of handwritten digits: scikit-learn's copy of the UCI set, 1,797 images of 8 x 8 pixels."""

import numpy as np


def batches(case):
    """Yield {"images": [batch, 1, 8, 8] in the case's dtype, 0 to 1, "labels": [batch] int64}, a new batch a step."""
    with np.load(case.folder / "digits.npz") as file:
        digits, labels = file["x"], file["y"]
    size = case.options["batch"]
    order = np.random.default_rng(case.seed).permutation(len(digits))
    for step in range(case.steps):
        chosen = np.take(order, range(step * size, (step + 1) * size), mode="wrap")
        yield {"images": digits[chosen, None].astype(case.dtype) / 16, "labels": labels[chosen].astype("int64")}
