"""Given gradients in several regimes, and what a real optimizer of either framework does under them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SHAPES = {"w": ((12, 8), 0.1), "b": ((12,), 0.0), "norm": ((12,), None), "e": ((20,), 3.0)}
REGIMES = ("normal", "small", "tiny", "sparse", "mixed", "constant")
Data = dict[str, np.ndarray]


def given_gradients(dtype: str, steps: int, seed: int = 0) -> Data:
    """Return initial values ``p/<name>`` and gradients ``g/<name>`` [steps, ...] of every shape in every regime."""
    rng = np.random.default_rng(seed)
    data: Data = {}
    for regime in REGIMES:
        for name, (shape, scale) in SHAPES.items():
            gradient = rng.normal(size=(steps, *shape))
            if regime == "small":
                gradient *= 1e-4
            elif regime == "tiny":
                gradient *= 1e-8
            elif regime == "sparse":
                gradient *= rng.random(gradient.shape) < 0.1
            elif regime == "mixed":
                gradient *= 10.0 ** rng.uniform(-9, 1, size=(1, *shape))
            elif regime == "constant":
                gradient = np.broadcast_to(gradient[:1], gradient.shape) + 0.01 * gradient
            start = np.ones(shape) if scale is None else rng.normal(size=shape) * scale
            data[f"p/{regime}_{name}"], data[f"g/{regime}_{name}"] = start.astype(dtype), gradient.astype(dtype)
    return data


def step_optimizers(
    side: str, python: str, requests: dict[str, dict[str, Any]], data: Data, folder: Path
) -> dict[str, Data]:
    """Run one framework's optimizers over the gradients in a process of their own; return what each saved, by label."""
    paths = [folder / f"{side}_{suffix}" for suffix in ("requests.json", "in.npz", "out.npz")]
    paths[0].write_text(json.dumps(requests))
    np.savez(paths[1], **data)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [python, str(HERE / f"{side}_trajectory.py"), *map(str, paths)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    results: dict[str, Data] = {label: {} for label in requests}
    with np.load(paths[2]) as saved:
        for key in saved.files:
            label, rest = key.split("/", 1)
            results[label][rest] = saved[key]
    return results


Update = tuple[str, int, np.ndarray, np.ndarray, Data, np.ndarray, Data]


def updates(saved: Data, data: Data, steps: int) -> Iterator[Update]:
    """Yield (name, step, before, used gradient, state before, after, state after) of every parameter and step."""
    for name in [key[2:] for key in data if key.startswith("p/")]:
        before, state = data[f"p/{name}"], {}
        for step in range(steps):
            prefix = f"state/{step}/{name}/"
            later = {key[len(prefix) :]: value for key, value in saved.items() if key.startswith(prefix)}
            after = saved[f"after/{step}/{name}"]
            yield name, step, before, saved[f"used/{step}/{name}"], state, after, later
            before, state = after, later
