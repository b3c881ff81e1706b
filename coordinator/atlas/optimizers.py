"""Optimizers whose rule both frameworks have: torch's class, paddle's class, argument by argument.

Sources: torch 2.13.0 ``torch/optim/<rule>.py``; paddle 3.3.1's CPU kernels, whose formulas were confirmed by comparing
trajectories.
"""

from __future__ import annotations

from stepalign.coordinator.atlas.calls import Call
from stepalign.coordinator.atlas.conversions import (
    DECAY,
    DECOUPLED,
    GRAD_CLIP,
    MAXIMIZE,
    RATE,
    SQUARED,
    betas,
    coupled_decay,
    epsilon,
    paddle_execution,
    rate,
    torch_execution,
)
from stepalign.coordinator.atlas.pairing import Argument, Configuration, Conversion, Pairing

_EXPONENTIAL = Call("torch.optim.lr_scheduler.ExponentialLR", {"gamma": 0.95})
_ALL = ("foreach", "capturable", "differentiable")
_FLOAT32 = "paddle keeps {} in float32 for float64 parameters too."


def _as_tuple(value: object) -> object:
    return tuple(float(part) for part in value)  # type: ignore[attr-defined]


_PAIR = Conversion("x", _as_tuple, _as_tuple)

NO_MOMENTUM = (
    Argument(torch="momentum", torch_default=0, neutral=0, note="use paddle.optimizer.Momentum"),
    Argument(torch="dampening", torch_default=0, neutral=0, note="has no effect without momentum"),
    Argument(torch="nesterov", torch_default=False, neutral=False, note="use paddle.optimizer.Momentum"),
)
"""torch.optim.SGD's arguments for a counterpart without a velocity."""

SGD = Pairing(
    "optimizer",
    "torch.optim.SGD",
    "paddle.optimizer.SGD",
    (
        rate(1e-3, 1e-3),
        coupled_decay(),
        *NO_MOMENTUM,
        MAXIMIZE,
        *torch_execution("foreach", "differentiable", "fused"),
        GRAD_CLIP,
        *paddle_execution("multi_precision", "name"),
    ),
    configurations=(
        Configuration("lr 0.1", {"lr": 0.1}),
        Configuration("L2 0.01", {"lr": 0.1, "weight_decay": 0.01}),
        Configuration("exponential rate", {"lr": 0.1}, schedule=_EXPONENTIAL),
        Configuration(
            "two groups", {"lr": 0.1}, groups=(("norm", {"weight_decay": 0.0}), ("", {"weight_decay": 0.1, "lr": 0.05}))
        ),
    ),
)

MOMENTUM = Pairing(
    "optimizer",
    "torch.optim.SGD",
    "paddle.optimizer.Momentum",
    (
        rate(1e-3, 1e-3),
        Argument("momentum", "momentum", 0, 0.9, RATE),
        Argument("nesterov", "use_nesterov", False, False),
        coupled_decay(),
        Argument(
            torch="dampening", torch_default=0, neutral=0,
            note="v = momentum * v + (1 - dampening) * g in torch, v = momentum * v + g in paddle, whose rescale_grad "
            "is ignored on the CPU: no argument gives it",
        ),
        MAXIMIZE,
        *torch_execution("foreach", "differentiable", "fused"),
        Argument(
            paddle="rescale_grad", paddle_default=1.0, neutral=1.0, note="ignored by the CPU kernel of dense gradients"
        ),
        GRAD_CLIP,
        *paddle_execution("multi_precision", "use_multi_tensor", "name"),
    ),
    difference=_FLOAT32.format("momentum and the decay's coefficient"),
    configurations=(
        Configuration("momentum 0.9", {"lr": 0.1, "momentum": 0.9}),
        Configuration("momentum 0.9, L2 0.01", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        Configuration("nesterov", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        Configuration("nesterov, L2 0.01", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        Configuration("exponential rate", {"lr": 0.1, "momentum": 0.9}, schedule=_EXPONENTIAL),
        Configuration("no momentum", {"lr": 0.1, "momentum": 0.0}),
        Configuration(
            "two groups", {"lr": 0.1, "momentum": 0.9},
            groups=(("norm", {"weight_decay": 0.0}), ("", {"weight_decay": 0.1, "lr": 0.05})),
        ),
    ),
)  # fmt: skip

ADAM = Pairing(
    "optimizer",
    "torch.optim.Adam",
    "paddle.optimizer.Adam",
    (
        rate(1e-3, 1e-3),
        *betas(),
        epsilon(),
        coupled_decay(),
        Argument("amsgrad", "amsgrad", False, False),
        Argument(
            torch="decoupled_weight_decay", torch_default=False, neutral=False, note="use paddle.optimizer.AdamW"
        ),
        MAXIMIZE,
        *torch_execution("foreach", "capturable", "differentiable", "fused"),
        GRAD_CLIP,
        *paddle_execution("lazy_mode", "multi_precision", "use_multi_tensor", "name"),
    ),
    configurations=(
        Configuration("defaults"),
        Configuration("lr 0.01", {"lr": 0.01}),
        Configuration("eps 1e-4", {"lr": 0.01, "eps": 1e-4}),
        Configuration("L2 0.1", {"lr": 0.01, "weight_decay": 0.1}),
        Configuration("amsgrad", {"lr": 0.01, "amsgrad": True}),
        Configuration("betas 0.8, 0.95", {"lr": 0.01, "betas": (0.8, 0.95)}),
        Configuration("exponential rate", {"lr": 0.01}, schedule=_EXPONENTIAL),
        Configuration(
            "two groups", {"lr": 0.01},
            groups=(("norm", {"betas": (0.8, 0.99)}), ("", {"weight_decay": 0.1, "eps": 1e-6, "lr": 0.0025})),
        ),
    ),
)  # fmt: skip

ADAMW = Pairing(
    "optimizer",
    "torch.optim.AdamW",
    "paddle.optimizer.AdamW",
    (
        rate(1e-3, 1e-3),
        *betas(),
        epsilon(),
        Argument("weight_decay", "weight_decay", 0.01, 0.01, DECAY),
        Argument("amsgrad", "amsgrad", False, False),
        MAXIMIZE,
        *torch_execution("foreach", "capturable", "differentiable", "fused"),
        Argument(paddle="lr_ratio", paddle_default=None, note="a rate for each parameter: torch's groups have an lr"),
        Argument(
            paddle="apply_decay_param_fun", paddle_default=None,
            note="sees parameter.name, such as linear_0.w_0; in torch a group with weight_decay=0.0",
        ),
        GRAD_CLIP,
        *paddle_execution("use_lowprecision_moment", "lazy_mode", "multi_precision", "name"),
    ),
    difference=(
        _FLOAT32.format("the decay's coefficient")
        + " In float32 torch multiplies by float32(1 - lr * decay), paddle subtracts lr * decay * p: a bias of up to half "
        "a unit in the last place of p a step, which shows where updates are tiny beside p."
    ),
    configurations=(
        Configuration("defaults"),
        Configuration("lr 0.01, decay 0.1", {"lr": 0.01, "weight_decay": 0.1}),
        Configuration("lr 0.01, decay 0", {"lr": 0.01, "weight_decay": 0.0}),
        Configuration("eps 1e-6", {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-6}),
        Configuration("amsgrad", {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
        Configuration("exponential rate", {"lr": 0.01, "weight_decay": 0.1}, schedule=_EXPONENTIAL),
        Configuration(
            "two groups", {"lr": 0.01},
            groups=(("norm", {"weight_decay": 0.0}), ("", {"weight_decay": 0.1, "betas": (0.8, 0.95), "lr": 0.0025})),
        ),
    ),
)  # fmt: skip

ADAM_DECOUPLED = Pairing(
    "optimizer",
    "torch.optim.Adam",
    "paddle.optimizer.AdamW",
    (
        rate(1e-3, 1e-3),
        *betas(),
        epsilon(),
        Argument("weight_decay", "weight_decay", 0, 0.01, DECAY),
        Argument("amsgrad", "amsgrad", False, False),
        Argument(
            torch="decoupled_weight_decay", torch_default=False, neutral=True, note="use paddle.optimizer.Adam"
        ),
        MAXIMIZE,
        *torch_execution("foreach", "capturable", "differentiable", "fused"),
        Argument(paddle="lr_ratio", paddle_default=None),
        Argument(paddle="apply_decay_param_fun", paddle_default=None),
        GRAD_CLIP,
        *paddle_execution("use_lowprecision_moment", "lazy_mode", "multi_precision", "name"),
    ),
    difference=ADAMW.difference,
    configurations=(
        Configuration("decay 0.1", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ),
    variant="decoupled_weight_decay=True",
)

ADAMAX = Pairing(
    "optimizer",
    "torch.optim.Adamax",
    "paddle.optimizer.Adamax",
    (
        rate(2e-3, 1e-3),
        *betas(),
        epsilon(),
        coupled_decay(),
        MAXIMIZE,
        *torch_execution("foreach", "capturable", "differentiable"),
        GRAD_CLIP,
        *paddle_execution("name"),
    ),
    difference=(
        "Infinity norm: torch u = max(beta2 * u, |g| + eps), paddle u = max(|g|, beta2 * u + eps). The same to rounding "
        "while |g| is far above eps, otherwise not, and no argument changes it. " + _FLOAT32.format("the betas")
    ),
    configurations=(
        Configuration("defaults"),
        Configuration("lr 0.01, L2 0.1", {"lr": 0.01, "weight_decay": 0.1}),
        Configuration("eps 1e-12", {"lr": 0.01, "eps": 1e-12}),
    ),
)

ADAGRAD = Pairing(
    "optimizer",
    "torch.optim.Adagrad",
    "paddle.optimizer.Adagrad",
    (
        Argument("lr", "learning_rate", 1e-2, conversion=RATE),
        epsilon(1e-10, 1e-6),
        Argument("initial_accumulator_value", "initial_accumulator_value", 0, 0.0, RATE),
        coupled_decay(),
        Argument(
            torch="lr_decay", torch_default=0, neutral=0,
            note="paddle.optimizer.lr.InverseTimeDecay(lr, gamma=lr_decay) as the rate is the same",
        ),
        MAXIMIZE,
        *torch_execution("foreach", "differentiable", "fused"),
        GRAD_CLIP,
        *paddle_execution("name"),
    ),
    difference=_FLOAT32.format("epsilon"),
    configurations=(
        Configuration("defaults"),
        Configuration("initial value 0.1", {"lr": 0.1, "initial_accumulator_value": 0.1}),
        Configuration("L2 0.1", {"lr": 0.1, "weight_decay": 0.1}),
        Configuration("exponential rate", {"lr": 0.1}, schedule=_EXPONENTIAL),
    ),
)  # fmt: skip

ADADELTA = Pairing(
    "optimizer",
    "torch.optim.Adadelta",
    "paddle.optimizer.Adadelta",
    (
        rate(1.0, 1e-3),
        Argument("rho", "rho", 0.9, 0.95),
        epsilon(1e-6, 1e-6),
        coupled_decay(),
        MAXIMIZE,
        *torch_execution("foreach", "capturable", "differentiable"),
        GRAD_CLIP,
        *paddle_execution("name"),
    ),
    difference=_FLOAT32.format("rho and epsilon"),
    configurations=(
        Configuration("defaults"),
        Configuration("lr 0.5, L2 0.1", {"lr": 0.5, "weight_decay": 0.1}),
        Configuration("rho 0.95, eps 1e-8", {"rho": 0.95, "eps": 1e-8}),
    ),
)

_RMSPROP_ARGUMENTS = (
    Argument("lr", "learning_rate", 1e-2, conversion=RATE),
    Argument("alpha", "rho", 0.99, 0.95),
    Argument("eps", "epsilon", 1e-8, 1e-6, SQUARED),
    Argument("momentum", "momentum", 0, 0.0, RATE),
    Argument("centered", "centered", False, False),
    coupled_decay(),
    MAXIMIZE,
    *torch_execution("capturable", "foreach", "differentiable"),
    GRAD_CLIP,
    *paddle_execution("name"),
)

RMSPROP = Pairing(
    "optimizer",
    "torch.optim.RMSprop",
    "paddle.optimizer.RMSProp",
    _RMSPROP_ARGUMENTS,
    difference=(
        "Epsilon: torch divides by sqrt(s) + eps, paddle by sqrt(s + epsilon), so epsilon = eps ** 2 is nearest and they "
        "agree where sqrt(s) is far above eps or far below it. " + _FLOAT32.format("rho, epsilon and momentum")
    ),
    configurations=(
        Configuration("defaults"),
        Configuration("momentum 0.9", {"momentum": 0.9}),
        Configuration("centered", {"centered": True}),
        Configuration("centered, momentum 0.9", {"centered": True, "momentum": 0.9}),
        Configuration("L2 0.1", {"weight_decay": 0.1}),
        Configuration("eps 1e-3", {"eps": 1e-3}),
        Configuration("exponential rate, no momentum", schedule=_EXPONENTIAL),
    ),
)

RMSPROP_SCHEDULED = Pairing(
    "optimizer",
    "torch.optim.RMSprop",
    "paddle.optimizer.RMSProp",
    _RMSPROP_ARGUMENTS,
    difference=(
        "Rate: torch's buffer is b = m * b + g / r and p -= lr * b, paddle's is b = m * b + lr * g / r and p -= b. The same "
        "while the rate is constant; under a schedule paddle goes on with the rates of the past, and no argument changes it."
    ),
    configurations=(Configuration("exponential rate, momentum 0.9", {"momentum": 0.9}, schedule=_EXPONENTIAL),),
    variant="momentum under a schedule",
)

NADAM = Pairing(
    "optimizer",
    "torch.optim.NAdam",
    "paddle.optimizer.NAdam",
    (
        rate(2e-3, 2e-3),
        *betas(),
        epsilon(),
        Argument("momentum_decay", "momentum_decay", 4e-3, 4e-3),
        coupled_decay(),
        DECOUPLED,
        MAXIMIZE,
        *torch_execution("foreach", "capturable", "differentiable"),
        GRAD_CLIP,
        *paddle_execution("name"),
    ),
    difference=_FLOAT32.format("betas, epsilon and momentum_decay"),
    configurations=(
        Configuration("defaults"),
        Configuration("lr 0.01, L2 0.1", {"lr": 0.01, "weight_decay": 0.1}),
        Configuration("momentum_decay 0.1", {"lr": 0.01, "momentum_decay": 0.1}),
    ),
)

RADAM = Pairing(
    "optimizer",
    "torch.optim.RAdam",
    "paddle.optimizer.RAdam",
    (
        rate(1e-3, 1e-3),
        *betas(),
        epsilon(),
        coupled_decay(),
        DECOUPLED,
        MAXIMIZE,
        *torch_execution("foreach", "capturable", "differentiable"),
        GRAD_CLIP,
        *paddle_execution("name"),
    ),
    difference=_FLOAT32.format("betas and epsilon") + " beta2 enters rho_t = rho_inf - 2 t beta2^t / (1 - beta2^t), which "
    "enlarges its rounding.",
    configurations=(
        Configuration("defaults"),
        Configuration("lr 0.01, L2 0.1", {"lr": 0.01, "weight_decay": 0.1}),
        Configuration("beta2 0.99", {"lr": 0.01, "betas": (0.9, 0.99)}),
    ),
)

RPROP = Pairing(
    "optimizer",
    "torch.optim.Rprop",
    "paddle.optimizer.Rprop",
    (
        rate(1e-2, 1e-3),
        Argument("step_sizes", "learning_rate_range", (1e-6, 50), (1e-5, 50), _PAIR),
        Argument("etas", "etas", (0.5, 1.2), (0.5, 1.2), _PAIR),
        MAXIMIZE,
        *torch_execution("capturable", "foreach", "differentiable"),
        GRAD_CLIP,
        *paddle_execution("multi_precision", "name"),
    ),
    configurations=(
        Configuration("defaults"),
        Configuration("lr 0.05", {"lr": 0.05}),
        Configuration("etas 0.4, 1.1", {"lr": 0.01, "etas": (0.4, 1.1)}),
    ),
)

SHARED_RULES = (
    SGD, MOMENTUM, ADAM, ADAMW, ADAM_DECOUPLED, ADAMAX, ADAGRAD, ADADELTA, RMSPROP, RMSPROP_SCHEDULED, NADAM, RADAM, RPROP,
)  # fmt: skip
