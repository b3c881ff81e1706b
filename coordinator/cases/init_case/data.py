"""The batches. stepalign calls batches(case) once, outside both frameworks, and sends the same bytes to both sides."""

import numpy as np


def batches(case):
    """Yield one dict of numpy arrays a step. torch_side.py and paddle_side.py get them as tensors, by name."""
    options = case.options
    rng = np.random.default_rng(case.seed)
    for _ in range(case.steps):
        labels = rng.integers(options["classes"], size=options["batch"])
        # Each class has its own mean, so that there is something to learn.
        inputs = rng.standard_normal((options["batch"], options["features"])) + labels[:, None]
        # Floating-point inputs in the case's dtype; labels are int64 for both frameworks.
        yield {"inputs": inputs.astype(case.dtype), "labels": labels.astype("int64")}
