"""Compares what `step4_side.py` dumped as reprod_log does: np.load, mean absolute difference, a threshold of 1e-6.

Run as a script: ``step4_compare.py OUT STEPS``. Prints the greatest mean difference of losses, gradients and parameters.
"""

import json
import sys
from pathlib import Path

import numpy as np


def main(out, steps):
    """Load both sides and compare them by name."""
    losses = [np.load(out / f"{side}_losses.npy") for side in ("torch", "paddle")]
    worst = {"loss": float(np.abs(losses[0] - losses[1]).max())}
    compared = 0
    for step in range(steps):
        if not (out / f"torch_{step}.npz").exists():
            continue
        torch, paddle = np.load(out / f"torch_{step}.npz"), np.load(out / f"paddle_{step}.npz")
        for key in torch.files:
            kind = key.partition("_")[0]
            worst[kind] = max(worst.get(kind, 0.0), float(np.abs(torch[key] - paddle[key]).mean()))
            compared += 1
    print(json.dumps({"worst": worst, "tensors": compared}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
