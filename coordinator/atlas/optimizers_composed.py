"""Optimizers that the other framework has under another rule's name, only together with a schedule, or not at all."""

from __future__ import annotations

from dataclasses import replace

from stepalign.coordinator.atlas.calls import Call, Expression
from stepalign.coordinator.atlas.conversions import (
    GRAD_CLIP,
    INTEGER,
    MAXIMIZE,
    betas,
    coupled_decay,
    epsilon,
    paddle_execution,
    rate,
    torch_execution,
)
from stepalign.coordinator.atlas.optimizers import ADAGRAD, NO_MOMENTUM
from stepalign.coordinator.atlas.pairing import Argument, Configuration, NoCounterpart, Pairing


def _asgd_to_paddle(call: Call) -> Call:
    """p (1 - lambd eta) - eta (g + decay p) = p - eta (g + (lambd + decay) p), eta = lr / (1 + lambd lr t) ** alpha."""
    given = call.arguments
    rate_, lambd, alpha = float(given["lr"]), float(given["lambd"]), float(given["alpha"])
    factor = Expression(f"lambda step: (1.0 + {lambd * rate_!r} * step) ** -{alpha!r}")
    schedule = Call("paddle.optimizer.lr.LambdaDecay", {"learning_rate": rate_, "lr_lambda": factor})
    return Call(
        "paddle.optimizer.SGD", {"learning_rate": schedule, "weight_decay": lambd + float(given["weight_decay"])}
    )


ASGD = Pairing(
    "optimizer",
    "torch.optim.ASGD",
    "paddle.optimizer.SGD",
    (
        Argument(torch="lr", torch_default=1e-2, execution=True, note="in the schedule"),
        Argument(torch="lambd", torch_default=1e-4, execution=True, note="in the schedule, and added to the decay"),
        Argument(torch="alpha", torch_default=0.75, execution=True, note="in the schedule"),
        Argument(torch="t0", torch_default=1e6, neutral=1e6, note="when averaging into the state `ax` starts"),
        Argument(torch="weight_decay", torch_default=0, execution=True, note="lambd is added to it"),
        MAXIMIZE,
        *torch_execution("foreach", "differentiable", "capturable"),
        Argument(paddle="learning_rate", paddle_default=1e-3, execution=True),
        Argument(paddle="weight_decay", paddle_default=None, execution=True),
        GRAD_CLIP,
        *paddle_execution("multi_precision", "name"),
    ),
    difference=(
        "torch's ASGD is SGD with L2 decay lambd and the rate lr / (1 + lambd * lr * t) ** alpha, which SGD and LambdaDecay "
        "give; the averaged copy `ax` has no counterpart. torch counts each parameter's own updates, the schedule counts steps: "
        "apart where a parameter has no gradient in some steps. paddle.optimizer.ASGD is another algorithm (SAG)."
    ),
    to_paddle=_asgd_to_paddle,
    configurations=(
        Configuration("defaults"),
        Configuration("lr 0.1, lambd 0.1", {"lr": 0.1, "lambd": 0.1}),
        Configuration("L2 0.01", {"lr": 0.1, "lambd": 0.01, "weight_decay": 0.01}),
    ),
    variant="with LambdaDecay",
)

SAG = Pairing(
    "optimizer",
    "torch.optim.SGD",
    "paddle.optimizer.ASGD",
    (
        rate(1e-3, 1e-3),
        coupled_decay(),
        *NO_MOMENTUM,
        MAXIMIZE,
        *torch_execution("foreach", "differentiable", "fused"),
        Argument(
            paddle="batch_num", paddle_default=1, neutral=1,
            note="above 1 it is SAG: the mean of the last gradients of batch_num batches, which torch does not have",
        ),
        GRAD_CLIP,
        *paddle_execution("multi_precision", "name"),
    ),
    difference="paddle's ASGD is the stochastic average gradient (SAG); over one batch it is plain SGD.",
    configurations=(
        Configuration("batch_num 1", {"learning_rate": 0.1}, side="paddle"),
        Configuration("batch_num 1, L2 0.01", {"learning_rate": 0.1, "weight_decay": 0.01}, side="paddle"),
    ),
)  # fmt: skip


def _decaying_adagrad(call: Call) -> Call:
    given = call.arguments
    if not given["lr_decay"]:
        raise NoCounterpart("without lr_decay the rate needs no schedule")
    schedule = Call(
        "paddle.optimizer.lr.InverseTimeDecay", {"learning_rate": float(given["lr"]), "gamma": float(given["lr_decay"])}
    )
    return Call(
        "paddle.optimizer.Adagrad",
        {
            "learning_rate": schedule,
            "epsilon": given["eps"],
            "initial_accumulator_value": float(given["initial_accumulator_value"]),
            "weight_decay": float(given["weight_decay"]),
        },
    )


ADAGRAD_DECAYING = Pairing(
    "optimizer",
    "torch.optim.Adagrad",
    "paddle.optimizer.Adagrad",
    tuple(
        Argument("lr_decay", torch_default=0, execution=True, note="InverseTimeDecay as the rate")
        if item.torch == "lr_decay"
        else item
        for item in ADAGRAD.arguments
    ),
    difference=(
        "lr / (1 + t * lr_decay) is paddle's InverseTimeDecay(lr, gamma=lr_decay). torch counts each parameter's own updates, "
        "the schedule counts steps: apart where a parameter has no gradient in some steps. "
        "paddle keeps epsilon in float32 for float64 parameters too."
    ),
    to_paddle=_decaying_adagrad,
    configurations=(Configuration("lr_decay 0.05", {"lr": 0.1, "lr_decay": 0.05}),),
    variant="lr_decay, with InverseTimeDecay",
)

LBFGS = Pairing(
    "optimizer",
    "torch.optim.LBFGS",
    "paddle.optimizer.LBFGS",
    (
        rate(1, 1.0),
        Argument("max_iter", "max_iter", 20, 20, INTEGER),
        Argument("max_eval", "max_eval", None, None),
        Argument("tolerance_grad", "tolerance_grad", 1e-7, 1e-7),
        Argument("tolerance_change", "tolerance_change", 1e-9, 1e-9),
        Argument("history_size", "history_size", 100, 100, INTEGER),
        Argument("line_search_fn", "line_search_fn", None, None),
        Argument(paddle="weight_decay", paddle_default=None, note="torch's LBFGS has none: add it to the loss"),
        GRAD_CLIP,
        *paddle_execution("name"),
    ),
    difference="Both evaluate a closure; measured on quadratics whose minimum the given gradients move.",
    configurations=(
        Configuration("max_iter 4, 3 steps", {"max_iter": 4}, steps=3),
        Configuration("strong Wolfe, max_iter 4, 3 steps", {"max_iter": 4, "line_search_fn": "strong_wolfe"}, steps=3),
    ),
)

LBFGS_LONG = replace(
    LBFGS,
    difference="The same rule, but each iteration enlarges rounding and a line search decides by it: float32 comes apart by as "
    "much more than float64 as its rounding is larger, so neither side is nearer to the truth.",
    configurations=(
        Configuration("defaults, 5 steps", steps=5),
        Configuration("strong Wolfe, 5 steps", {"line_search_fn": "strong_wolfe"}, steps=5),
    ),
    variant="many iterations",
)

SPARSE_ADAM = Pairing(
    "optimizer",
    "torch.optim.SparseAdam",
    "paddle.optimizer.Adam",
    (
        rate(1e-3, 1e-3),
        *betas(),
        epsilon(),
        MAXIMIZE,
        Argument(paddle="lazy_mode", paddle_default=False, neutral=True),
        Argument(paddle="weight_decay", paddle_default=None),
        Argument(paddle="amsgrad", paddle_default=False, neutral=False),
        GRAD_CLIP,
        *paddle_execution("multi_precision", "use_multi_tensor", "name"),
    ),
    difference=(
        "Both touch only the rows of a sparse gradient (in paddle: Embedding(sparse=True) and lazy_mode), but paddle corrects "
        "the bias as if one more step had been done: (1 - beta1 ** (t + 1)) in place of (1 - beta1 ** t), and torch adds eps to "
        "sqrt(v) before the correction."
    ),
    configurations=(Configuration("lazy rows", {"lr": 0.01}, sparse=True),),
    variant="sparse gradients",
)

_NEITHER = "No class of paddle.optimizer has this rule."

ADAFACTOR = Pairing(
    "optimizer",
    "torch.optim.Adafactor",
    "",
    difference=(
        f"{_NEITHER} The second moment of a matrix is the outer product of its row and column means, "
        "V = R C / mean(R), the update is clipped to a root mean square of d, and the rate is relative to that of the parameter."
    ),
)

MUON = Pairing(
    "optimizer",
    "torch.optim.Muon",
    "",
    difference=(
        f"{_NEITHER} A matrix's momentum is orthogonalised by ns_steps Newton-Schulz iterations before the step; decay is "
        "decoupled."
    ),
)

LAMB = Pairing(
    "optimizer",
    "",
    "paddle.optimizer.Lamb",
    difference=(
        "torch.optim has no layer-wise rate: Lamb scales Adam's direction r = m / (sqrt(v) + eps) + decay * p by "
        "norm(p) / norm(r) for each parameter."
    ),
)

BASE = Pairing(
    "optimizer",
    "torch.optim.Optimizer",
    "paddle.optimizer.Optimizer",
    difference="The base class. An lr of a group is a rate in torch; a learning_rate of a group multiplies the rate in paddle.",
    is_base=True,
)

COMPOSED_RULES = (ASGD, SAG, ADAGRAD_DECAYING, LBFGS, LBFGS_LONG, SPARSE_ADAM, ADAFACTOR, MUON, LAMB, BASE)

