"""Sequences of gradients that tell update rules apart, and sequences of losses for schedules that watch one.

Normal gradients alone hide where an epsilon stands; zeros and missing gradients tell what moves without a gradient. The
same regime, shapes, dtype and seed give the same numbers everywhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

STEPS = 50
_MISSING_EVERY = 3


@dataclass(frozen=True)
class Regime:
    """One kind of gradient sequence."""

    name: str
    words: str


REGIMES = (
    Regime("normal", "normally distributed"),
    Regime("small", "normally distributed times 1e-4"),
    Regime("tiny", "normally distributed times 1e-8"),
    Regime("mixed", "normally distributed times a power of ten between 1e-8 and 1e2, another for each element"),
    Regime("zeros", "normally distributed, half of the elements zero, at every third step all of them"),
    Regime("missing", "normally distributed, each parameter without a gradient at every third step, the first at step 0"),
)
NAMES = tuple(regime.name for regime in REGIMES)
_SCALES = {"small": 1e-4, "tiny": 1e-8}


def gradients(
    regime: str, shapes: Mapping[str, tuple[int, ...]], dtype: str, steps: int = STEPS, seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """Return, for each step, an array of ``dtype`` for each name; a name is absent where it has no gradient.

    Raises ValueError for a regime that is not known.
    """
    if regime not in NAMES:
        raise ValueError(f"unknown regime {regime!r}; the regimes are {', '.join(NAMES)}")
    random = np.random.default_rng([seed, zlib.crc32(regime.encode())])
    scales = {name: 10.0 ** random.uniform(-8.0, 2.0, shape) for name, shape in shapes.items()}
    sequence = []
    for step in range(steps):
        present: dict[str, np.ndarray] = {}
        for number, (name, shape) in enumerate(shapes.items()):
            value = random.standard_normal(shape) * _SCALES.get(regime, 1.0)
            if regime == "mixed":
                value = value * scales[name]
            if regime == "zeros":
                value = value * (random.random(shape) < 0.5) * (step % 3 != 1)
            if regime != "missing" or (step + number) % _MISSING_EVERY != 0:
                present[name] = np.asarray(value, dtype)
        sequence.append(present)
    return sequence


def initial_parameters(shapes: Mapping[str, tuple[int, ...]], dtype: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Return normally distributed parameters of about one half."""
    random = np.random.default_rng([seed, 1])
    return {name: np.asarray(0.5 * random.standard_normal(shape), dtype) for name, shape in shapes.items()}


def losses(steps: int, kind: str = "falling") -> np.ndarray:
    """Return float64 [steps] losses: ``falling`` to a noisy plateau, ``flat``, ``zigzag``, ``nan_first``."""
    at = np.arange(steps, dtype=np.float64)
    falling = np.exp(-at / 80.0) + 0.2 + 0.01 * np.random.default_rng(2).standard_normal(steps)
    if kind == "flat":
        return np.ones(steps)
    if kind == "zigzag":
        return 1.0 + 0.5 * np.sin(at / 9.0) - 1e-3 * at
    if kind == "nan_first":
        falling[0] = np.nan
    elif kind != "falling":
        raise ValueError(f"unknown losses {kind!r}; expected falling, flat, zigzag or nan_first")
    return falling
