"""The conversions that several pairings share, and the arguments that every optimizer of a framework has."""

from __future__ import annotations

import math

from stepalign.coordinator.atlas.calls import Call, Value
from stepalign.coordinator.atlas.pairing import Argument, Conversion, NoCounterpart

L2_DECAY = "paddle.regularizer.L2Decay"
L1_DECAY = "paddle.regularizer.L1Decay"


def _rate(value: Value) -> Value:
    """Paddle raises TypeError for a whole number as rate; a schedule stays."""
    return float(value) if isinstance(value, int) else value


def _decay_to_torch(value: Value) -> Value:
    if value is None:
        return 0.0
    if isinstance(value, Call):
        if value.target == L2_DECAY:
            return value.arguments.get("coeff", 0.0)
        raise NoCounterpart(
            f"{value.name} has no argument in torch's optimizers: add its term to the gradients before the step"
        )
    return float(value)


def _square(value: Value) -> Value:
    return float(value) ** 2


def _root(value: Value) -> Value:
    return math.sqrt(float(value))


RATE = Conversion("x, as a float", _rate, _rate)
DECAY = Conversion("x, as a float", float, _decay_to_torch)
SQUARED = Conversion("x ** 2", _square, _root)
INTEGER = Conversion("x, as an int", int, int)


def rate(torch: float, paddle: Value) -> Argument:
    """The learning rate, with both defaults."""
    return Argument("lr", "learning_rate", torch, paddle, RATE)


def coupled_decay() -> Argument:
    """L2 decay that both add to the gradient: ``g + weight_decay * p``."""
    return Argument("weight_decay", "weight_decay", 0, None, DECAY)


def betas() -> tuple[Argument, Argument]:
    """The moments' betas, a tuple in torch and two arguments in paddle."""
    return Argument("betas[0]", "beta1", 0.9, 0.9), Argument("betas[1]", "beta2", 0.999, 0.999)


def epsilon(torch: float = 1e-8, paddle: float = 1e-8) -> Argument:
    """Epsilon where both sides put it at the same place."""
    return Argument("eps", "epsilon", torch, paddle)


MAXIMIZE = Argument(
    torch="maximize", torch_default=False, neutral=False, note="paddle has no such argument: negate the loss instead"
)
DECOUPLED = Argument(
    torch="decoupled_weight_decay", torch_default=False, neutral=False, note="paddle adds the decay to the gradient only"
)


def torch_execution(*names: str) -> tuple[Argument, ...]:
    """Arguments of torch's that choose an implementation: foreach, fused, capturable, differentiable."""
    defaults: dict[str, Value] = {"foreach": None, "fused": None, "capturable": False, "differentiable": False}
    return tuple(Argument(torch=name, torch_default=defaults[name], execution=True) for name in names)


def paddle_execution(*names: str) -> tuple[Argument, ...]:
    """Arguments of paddle's that choose an implementation or a name."""
    defaults: dict[str, Value] = {
        "name": None, "multi_precision": False, "use_multi_tensor": False, "use_lowprecision_moment": False,
        "lazy_mode": False, "verbose": False,
    }  # fmt: skip
    return tuple(Argument(paddle=name, paddle_default=defaults[name], execution=True) for name in names)


GRAD_CLIP = Argument(
    paddle="grad_clip",
    paddle_default=None,
    note="torch clips between backward and the step: torch.nn.utils.clip_grad_norm_ or clip_grad_value_",
)
LAZY_MODE_NOTE = "changes nothing for dense gradients; for sparse ones see SparseAdam"
