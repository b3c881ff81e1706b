"""One measurement of a pair: torch's arguments, the inputs, and what is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """torch's ``arguments`` beside ``inputs``; paddle's follow from the pair.

    shows: the key of the pair's difference that this case exists to show; empty where both sides must agree.
    paddle_inputs, paddle_arguments, paddle_call: what replaces that of torch on paddle's side.
    torch_permutation, paddle_permutation: the axes of each output in another order, before anything is compared.
    paddle_outputs: which of paddle's outputs stand for torch's; empty for all.
    state: the inputs that are one argument, a tuple. constant: the inputs that need no gradient.
    compare: the outputs, gradients and buffers that are compared; empty for all.
    reduce: what is compared of each: ``""`` every element, ``"values"`` the set of values (where places are random).
    defaults_only: measured with the arguments that are left out at each side's own default, and not spelled out.
    alone: run in processes of its own, because paddle may not survive it.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    label: str = ""
    mode: str = "eval"
    shows: str = ""
    call: Mapping[str, Any] = field(default_factory=dict)
    paddle_call: Mapping[str, Any] | None = None
    named_inputs: Mapping[str, str] = field(default_factory=dict)
    paddle_inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    paddle_arguments: Mapping[str, Any] = field(default_factory=dict)
    torch_permutation: tuple[int, ...] = ()
    paddle_permutation: tuple[int, ...] = ()
    paddle_outputs: tuple[int, ...] = ()
    state: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    compare: tuple[str, ...] = ()
    ignored_tensors: tuple[str, ...] = ()
    reduce: str = ""
    defaults_only: bool = False
    alone: bool = False


def normal(*shape: int, seed: int = 1, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Return normal numbers, float64, the same for the same arguments."""
    return shift + scale * np.random.default_rng((seed, *shape)).standard_normal(shape)


def uniform(*shape: int, low: float = 0.0, high: float = 1.0, seed: int = 2) -> np.ndarray:
    """Return uniform numbers, float64."""
    return np.random.default_rng((seed, *shape)).uniform(low, high, shape)


def integers(*shape: int, high: int, seed: int = 3) -> np.ndarray:
    """Return whole numbers below ``high``, int64."""
    return np.random.default_rng((seed, *shape)).integers(high, size=shape)


def tensor(values: np.ndarray) -> dict[str, Any]:
    """Return an argument that is a tensor of the measured dtype; the workers' ends read it."""
    return {"$array": values.tolist(), "kind": str(values.dtype)}


def cases(inputs: Mapping[str, np.ndarray], *arguments: Mapping[str, Any], mode: str = "eval") -> list[Case]:
    """Return a case for each of the arguments, one without any where there are none."""
    return [Case(each, inputs, mode=mode) for each in arguments or ({},)]


X = {"x": normal(2, 6, 8)}
IMAGE = {"x": normal(2, 4, 9, 8)}
SCALED = [
    {"scale_factor": 2},
    {"size": [5, 11]},
    {"size": [5, 11], "mode": "bilinear"},
    {"scale_factor": 2, "mode": "bilinear"},
    {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
    {"size": [5, 11], "mode": "bicubic"},
]
