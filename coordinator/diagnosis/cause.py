"""A named explanation of a divergence, as result.json lists it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Optional


class Category(str, enum.Enum):
    """The closed set of categories that the result format promises."""

    PROVENANCE = "provenance"
    DATA = "data"
    INITIAL_WEIGHTS = "initial_weights"
    SCHEDULE = "schedule"
    HYPERPARAMETER = "hyperparameter"
    OPTIMIZER = "optimizer"
    WEIGHT_DECAY = "weight_decay"
    GRADIENT_CLIPPING = "gradient_clipping"
    GRADIENT_ACCUMULATION = "gradient_accumulation"
    FROZEN_PARAMETER = "frozen_parameter"
    FORWARD = "forward"
    LOSS = "loss"
    BACKWARD = "backward"
    BUFFER = "buffer"
    RANDOMNESS = "randomness"
    PRECISION = "precision"
    NONFINITE = "nonfinite"


@dataclass(frozen=True)
class Cause:
    """Why the sides differ. ``confidence`` is in [0, 1]; ``fix`` speaks in the port's own terms (which argument of
    which call).
    """

    category: Category
    code: str
    confidence: float
    evidence: str
    fix: str


@dataclass(frozen=True)
class Finding:
    """A declared difference: a cause, with the kind of value it shows in first and the tensor or module it is about.

    ``kind`` is one of ``lr``, ``activation``, ``gradient``, ``optimizer_state``, ``parameter``, ``buffer``.
    ``matters`` is False for a difference that cannot change this run (dropout rates in eval mode, say).
    """

    cause: Cause
    kind: str
    torch_name: str
    paddle_name: str
    matters: bool = True
    torch_value: Optional[str] = None
    paddle_value: Optional[str] = None
