"""What of paddle is constructed for a training, and over which model an expression constructs it."""

from __future__ import annotations

import inspect
from typing import Any, Dict, List, Tuple

import paddle


def defer_compiler() -> None:
    """Have optimizers constructed without importing what compiles models: paddle imports nothing for them."""


def import_deferred() -> None:
    """Import what was left out: nothing."""


def constructed_classes() -> Dict[str, type]:
    """Name the optimizers, schedules, clips and regularizers by their public dotted names."""
    found: Dict[str, type] = {}
    for prefix, module, base in (
        ("paddle.optimizer.", paddle.optimizer, paddle.optimizer.Optimizer),
        ("paddle.optimizer.lr.", paddle.optimizer.lr, paddle.optimizer.lr.LRScheduler),
        ("paddle.optimizer.lr.", paddle.optimizer.lr, paddle.optimizer.lr.ReduceOnPlateau),
        ("paddle.nn.", paddle.nn, paddle.nn.ClipGradByGlobalNorm),
        ("paddle.nn.", paddle.nn, paddle.nn.ClipGradByNorm),
        ("paddle.nn.", paddle.nn, paddle.nn.ClipGradByValue),
        ("paddle.regularizer.", paddle.regularizer, paddle.regularizer.WeightDecayRegularizer),
    ):
        for name, value in vars(module).items():
            is_base = value in (paddle.optimizer.Optimizer, paddle.optimizer.lr.LRScheduler)
            if inspect.isclass(value) and issubclass(value, base) and not is_base and not name.startswith("_"):
                found[prefix + name] = value
    return found


def clipping_functions() -> List[Tuple[Any, str, str]]:
    """List what clips gradients: where it is found, under which attribute, and its public name."""
    names = ("clip_grad_norm_", "clip_grad_value_")
    return [(paddle.nn.utils, name, f"paddle.nn.utils.{name}") for name in names]


def sample_model() -> Any:
    """Build a small model, for expressions that construct an optimizer over its parameters."""
    return paddle.nn.Sequential(paddle.nn.Linear(4, 3), paddle.nn.LayerNorm(3))


def give_gradients(model: Any) -> None:
    """Give every parameter of a model a gradient, so that it can be clipped."""
    total = sum((parameter.sum() for parameter in model.parameters()), paddle.zeros([]))
    total.backward()
