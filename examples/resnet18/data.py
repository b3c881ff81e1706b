"""Batches of handwritten digits (scikit-learn's copy of the UCI set), enlarged to RGB images."""

import numpy as np


def batches(case):
    """Yield {"images": [batch, 3, H, W] in the case's dtype, "labels": [batch] int64}, a new batch a step."""
    with np.load(case.folder / "digits.npz") as file:
        digits, labels = file["x"], file["y"]
    size, scale = case.options["batch"], case.options["scale"]
    rng = np.random.default_rng(case.seed)
    order = rng.permutation(len(digits))
    for step in range(case.steps):
        chosen = np.take(order, range(step * size, (step + 1) * size), mode="wrap")
        images = digits[chosen].astype(case.dtype) / 8 - 1
        images = images.repeat(scale, axis=1).repeat(scale, axis=2)
        images = np.repeat(images[:, None], 3, axis=1)
        # Without noise the enlarged pixels are flat squares, and the network's max pooling meets equal values all over.
        # Which of them gets the gradient is then settled by the last bit, and differs between two correct sides.
        images = images + rng.normal(0, 0.1, images.shape).astype(case.dtype)
        yield {"images": images, "labels": labels[chosen].astype("int64")}
