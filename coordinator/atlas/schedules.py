"""Schedules that both frameworks have as a class of their own, argument by argument.

Sources: torch 2.13.0 ``torch/optim/lr_scheduler.py``, paddle 3.3.1 ``paddle/optimizer/lr.py``.
"""

from __future__ import annotations

from stepalign.coordinator.atlas.calls import BASE_RATE, Call, Expression, Value
from stepalign.coordinator.atlas.conversions import INTEGER, RATE, paddle_execution
from stepalign.coordinator.atlas.pairing import Argument, Configuration, Conversion, NoCounterpart, Pairing

_TORCH, _PADDLE = "torch.optim.lr_scheduler.", "paddle.optimizer.lr."
RATES = (0.1, 3e-4)
"""The base rates that every schedule is measured with."""

_RESUME = "to resume, load the schedule's state_dict: what last_epoch does alone differs between the two"
LAST_EPOCH = (
    Argument(torch="last_epoch", torch_default=-1, neutral=-1, note=_RESUME),
    Argument(paddle="last_epoch", paddle_default=-1, neutral=-1, note=_RESUME),
    *paddle_execution("verbose"),
)
BASE = Argument(BASE_RATE, "learning_rate", conversion=RATE)


def _below_one(value: Value) -> Value:
    if float(value) >= 1.0:
        raise NoCounterpart(f"paddle refuses gamma={value!r}, which does not decay: use LambdaDecay")
    return float(value)


def _distinct(value: Value) -> Value:
    milestones = sorted(value)
    if len(set(milestones)) != len(milestones):
        raise NoCounterpart(f"paddle refuses milestones that occur twice, as in {value!r}: use PiecewiseDecay")
    return milestones


_GAMMA = Conversion("x, below 1", _below_one, float)
_MILESTONES = Conversion("x, sorted and each once", _distinct, list)


def _schedule(
    torch: str,
    paddle: str,
    arguments: tuple[Argument, ...],
    configurations: tuple[Configuration, ...],
    difference: str = "",
    variant: str = "",
) -> Pairing:
    return Pairing(
        "schedule",
        _TORCH + torch,
        _PADDLE + paddle,
        (BASE, *arguments, *LAST_EPOCH),
        difference,
        configurations=configurations,
        variant=variant,
    )


def _expression(text: str) -> Expression:
    return Expression(f"lambda step: {text}")


LAMBDA = _schedule(
    "LambdaLR",
    "LambdaDecay",
    (Argument("lr_lambda", "lr_lambda"),),
    (
        Configuration("0.999 ** t", {"lr_lambda": _expression("0.999 ** step")}),
        Configuration(
            "warm-up and linear decay",
            {"lr_lambda": _expression("step / 100 if step < 100 else max(0.0, (1000 - step) / 900)")},
        ),
        Configuration(
            "warm-up and cosine",
            {
                "lr_lambda": _expression(
                    "step / 100 if step < 100 else 0.5 * (1.0 + math.cos(math.pi * (step - 100) / 900))"
                )
            },
        ),
        Configuration("warm-up and inverse root", {"lr_lambda": _expression("min((step + 1) / 100, (100 / (step + 1)) ** 0.5)")}),
    ),
    "torch takes a list of lambdas, one a group; paddle takes one.",
)

MULTIPLICATIVE = _schedule(
    "MultiplicativeLR",
    "MultiplicativeDecay",
    (Argument("lr_lambda", "lr_lambda"),),
    (
        Configuration("0.999", {"lr_lambda": _expression("0.999")}),
        Configuration("step-dependent", {"lr_lambda": _expression("0.99 if step % 7 else 1.01")}),
    ),
    "paddle computes the product anew at each step, which takes time in proportion to the step.",
)

STEP = _schedule(
    "StepLR",
    "StepDecay",
    (Argument("step_size", "step_size", conversion=INTEGER), Argument("gamma", "gamma", 0.1, 0.1, _GAMMA)),
    (
        Configuration("30, 0.1", {"step_size": 30}),
        Configuration("100, 0.9", {"step_size": 100, "gamma": 0.9}),
        Configuration("250, 0.5", {"step_size": 250, "gamma": 0.5}),
    ),
    "torch multiplies by gamma at each milestone, paddle computes base * gamma ** (t // step_size). paddle refuses gamma >= 1.",
)

MULTI_STEP = _schedule(
    "MultiStepLR",
    "MultiStepDecay",
    (Argument("milestones", "milestones", conversion=_MILESTONES), Argument("gamma", "gamma", 0.1, 0.1, _GAMMA)),
    (
        Configuration("300, 700", {"milestones": [300, 700]}),
        Configuration("nine milestones, 0.7", {"milestones": list(range(100, 1000, 100)), "gamma": 0.7}),
    ),
    "torch multiplies at each milestone, paddle computes the power. paddle refuses gamma >= 1 and milestones that are not "
    "increasing; in torch one that occurs twice counts twice.",
)

LINEAR = _schedule(
    "LinearLR",
    "LinearLR",
    (
        Argument("total_iters", "total_steps", 5, conversion=INTEGER),
        Argument("start_factor", "start_factor", 1 / 3, 1 / 3),
        Argument("end_factor", "end_factor", 1.0, 1.0),
    ),
    (
        Configuration("defaults"),
        Configuration("0.001 to 1 in 500", {"start_factor": 0.001, "total_iters": 500}),
        Configuration("1 to 0.1 in 600", {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 600}),
        Configuration("1 to 0 in 1000", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 1000}),
    ),
    "paddle has no default for total_steps. paddle's LinearLR(last_epoch=k) and step(epoch) give other values than stepping there.",
)

EXPONENTIAL = _schedule(
    "ExponentialLR",
    "ExponentialDecay",
    (Argument("gamma", "gamma", conversion=_GAMMA),),
    (Configuration("0.999", {"gamma": 0.999}), Configuration("0.95", {"gamma": 0.95})),
    "torch multiplies step by step, paddle computes base * gamma ** t. paddle refuses gamma >= 1.",
)

POLYNOMIAL = _schedule(
    "PolynomialLR",
    "PolynomialDecay",
    (
        Argument("total_iters", "decay_steps", 5, conversion=INTEGER),
        Argument("power", "power", 1.0, 1.0),
        Argument(
            paddle="end_lr", paddle_default=0.0001, neutral=0.0,
            note="torch decays to 0: use LambdaLR for another end",
        ),
        Argument(paddle="cycle", paddle_default=False, neutral=False, note="torch has no cycles: use LambdaLR"),
    ),
    (
        Configuration("800, power 1", {"total_iters": 800}),
        Configuration("800, power 2", {"total_iters": 800, "power": 2.0}),
        Configuration("800, power 0.9", {"total_iters": 800, "power": 0.9}),
    ),
    "torch multiplies by ((1 - t/n) / (1 - (t-1)/n)) ** power, paddle computes (lr - end_lr) * (1 - t/n) ** power + end_lr. "
    "paddle's default end_lr is 1e-4, torch ends at 0.",
)  # fmt: skip

COSINE = _schedule(
    "CosineAnnealingLR",
    "CosineAnnealingDecay",
    (
        Argument("T_max", "T_max", conversion=INTEGER),
        Argument("eta_min", "eta_min", 0.0, 0, RATE),
    ),
    (
        Configuration("T_max 1000", {"T_max": 1000}),
        Configuration("T_max 200, eta_min 1e-5", {"T_max": 200, "eta_min": 1e-5}),
        Configuration("T_max 7", {"T_max": 7}),
    ),
    "Both use the same recursion, and rise again past T_max. paddle refuses a float T_max, and "
    "CosineAnnealingDecay(last_epoch=k) does not give the rate of step k.",
)

WARM_RESTARTS = _schedule(
    "CosineAnnealingWarmRestarts",
    "CosineAnnealingWarmRestarts",
    (
        Argument("T_0", "T_0", conversion=INTEGER),
        Argument("T_mult", "T_mult", 1, 1, INTEGER),
        Argument("eta_min", "eta_min", 0.0, 0, RATE),
    ),
    (
        Configuration("10, doubled", {"T_0": 10, "T_mult": 2}),
        Configuration("250", {"T_0": 250}),
        Configuration("7, tripled, eta_min 1e-5", {"T_0": 7, "T_mult": 3, "eta_min": 1e-5}),
    ),
)

_MOMENTUM_NOTE = "torch also moves the optimizer's momentum (SGD) or beta1 (Adam); paddle never does"

CYCLIC = Pairing(
    "schedule",
    _TORCH + "CyclicLR",
    _PADDLE + "CyclicLR",
    (
        Argument(torch=BASE_RATE, execution=True, note="base_lr replaces it"),
        Argument("base_lr", "base_learning_rate", conversion=RATE),
        Argument("max_lr", "max_learning_rate", conversion=RATE),
        Argument("step_size_up", "step_size_up", 2000, conversion=INTEGER),
        Argument("step_size_down", "step_size_down", None, None),
        Argument("mode", "mode", "triangular", "triangular"),
        Argument("gamma", "exp_gamma", 1.0, 1.0),
        Argument("scale_fn", "scale_fn", None, None),
        Argument("scale_mode", "scale_mode", "cycle", "cycle"),
        Argument(torch="cycle_momentum", torch_default=True, neutral=False, note=_MOMENTUM_NOTE),
        Argument(torch="base_momentum", torch_default=0.8, execution=True),
        Argument(torch="max_momentum", torch_default=0.9, execution=True),
        *LAST_EPOCH,
    ),
    f"With cycle_momentum (torch's default) {_MOMENTUM_NOTE}.",
    configurations=tuple(
        Configuration(name, {"base_lr": 1e-4, "max_lr": 0.1, "cycle_momentum": False, **arguments})
        for name, arguments in (
            ("triangular", {"step_size_up": 100}),
            ("triangular, 70 up, 30 down", {"step_size_up": 70, "step_size_down": 30}),
            ("triangular2", {"step_size_up": 100, "mode": "triangular2"}),
            ("exp_range", {"step_size_up": 100, "mode": "exp_range", "gamma": 0.999}),
        )
    ),
)


def one_cycle_to_paddle(call: Call) -> Call:
    """Spell out the first and the last rate: max_lr / div_factor and that / final_div_factor."""
    given = call.arguments
    steps = given["total_steps"]
    if steps is None:
        if given["epochs"] is None or given["steps_per_epoch"] is None:
            raise NoCounterpart("OneCycleLR needs total_steps, or epochs and steps_per_epoch")
        steps = given["epochs"] * given["steps_per_epoch"]
    peak, first, last = float(given["max_lr"]), float(given["div_factor"]), float(given["final_div_factor"])
    return Call(
        _PADDLE + "OneCycleLR",
        {
            "max_learning_rate": peak,
            "total_steps": int(steps),
            "divide_factor": first,
            "end_learning_rate": peak / first / last,
            "phase_pct": given["pct_start"],
            "anneal_strategy": given["anneal_strategy"],
            "three_phase": given["three_phase"],
        },
    )


def one_cycle_to_torch(call: Call) -> Call:
    """Recover torch's final_div_factor from the last rate."""
    given = call.arguments
    peak, first, last = (float(given[name]) for name in ("max_learning_rate", "divide_factor", "end_learning_rate"))
    if last == 0.0:
        raise NoCounterpart("torch's OneCycleLR cannot end at 0: final_div_factor would be infinite")
    return Call(
        _TORCH + "OneCycleLR",
        {
            BASE_RATE: peak / first,
            "max_lr": peak,
            "total_steps": given["total_steps"],
            "pct_start": given["phase_pct"],
            "anneal_strategy": given["anneal_strategy"],
            "cycle_momentum": False,
            "div_factor": first,
            "final_div_factor": peak / first / last,
            "three_phase": given["three_phase"],
        },
    )


ONE_CYCLE = Pairing(
    "schedule",
    _TORCH + "OneCycleLR",
    _PADDLE + "OneCycleLR",
    (
        Argument(torch=BASE_RATE, execution=True, note="max_lr / div_factor replaces it"),
        Argument("max_lr", "max_learning_rate"),
        Argument("total_steps", "total_steps", None, note="or torch's epochs * steps_per_epoch"),
        Argument(torch="epochs", torch_default=None, execution=True),
        Argument(torch="steps_per_epoch", torch_default=None, execution=True),
        Argument("pct_start", "phase_pct", 0.3, 0.3),
        Argument("anneal_strategy", "anneal_strategy", "cos", "cos"),
        Argument("div_factor", "divide_factor", 25.0, 25.0),
        Argument(
            "final_div_factor", "end_learning_rate", 1e4, 0.0001, Conversion("max_lr / div_factor / x"),
            note="an absolute rate in paddle",
        ),
        Argument("three_phase", "three_phase", False, False),
        Argument(torch="cycle_momentum", torch_default=True, neutral=False, note=_MOMENTUM_NOTE),
        Argument(torch="base_momentum", torch_default=0.85, execution=True),
        Argument(torch="max_momentum", torch_default=0.95, execution=True),
        *LAST_EPOCH,
    ),
    "paddle's default last rate is 1e-4, whatever max_lr is. Both raise beyond total_steps. "
    f"With cycle_momentum (torch's default) {_MOMENTUM_NOTE}.",
    one_cycle_to_paddle,
    one_cycle_to_torch,
    tuple(
        Configuration(name, {"max_lr": 0.1, "total_steps": 1000, "cycle_momentum": False, **arguments})
        for name, arguments in (
            ("cosine", {}),
            ("linear", {"anneal_strategy": "linear"}),
            ("three phases", {"three_phase": True}),
            ("pct_start 0.1, factors 10 and 100", {"pct_start": 0.1, "div_factor": 10.0, "final_div_factor": 100.0}),
        )
    ),
)  # fmt: skip


def _without_cooldown(value: Value) -> Value:
    if value:
        raise NoCounterpart("with a cooldown the best loss is followed otherwise")
    return 0


def _with_cooldown(value: Value) -> Value:
    if not value:
        raise NoCounterpart("without a cooldown both follow the best loss alike")
    return int(value)


def _plateau(conversion: Conversion, difference: str, variant: str, *configurations: Configuration) -> Pairing:
    return Pairing(
        "schedule",
        _TORCH + "ReduceLROnPlateau",
        _PADDLE + "ReduceOnPlateau",
        (
            BASE,
            Argument("mode", "mode", "min", "min"),
            Argument("factor", "factor", 0.1, 0.1),
            Argument("patience", "patience", 10, 10, INTEGER),
            Argument("threshold", "threshold", 1e-4, 1e-4),
            Argument("threshold_mode", "threshold_mode", "rel", "rel"),
            Argument("cooldown", "cooldown", 0, 0, conversion),
            Argument("min_lr", "min_lr", 0, 0, RATE),
            Argument("eps", "epsilon", 1e-8, 1e-8),
            *paddle_execution("verbose"),
        ),
        difference,
        configurations=configurations,
        variant=variant,
    )


PLATEAU = _plateau(
    Conversion("x", _without_cooldown, _without_cooldown),
    "The same while the first loss is finite. After a first loss of NaN, or +inf with mode min, paddle never finds a better one. "
    "A tensor as metric is kept by reference in paddle: written over in place it is never better; pass float(loss).",
    "",
    Configuration("defaults, falling losses"),
    Configuration("defaults, flat losses", metric="flat"),
    Configuration("defaults, losses up and down", metric="zigzag"),
    Configuration("max, absolute threshold", {"mode": "max", "threshold_mode": "abs", "factor": 0.3, "patience": 5}),
    Configuration("factor 0.5, min_lr 1e-5", {"factor": 0.5, "patience": 20, "min_lr": 1e-5}, metric="flat"),
)

PLATEAU_COOLDOWN = _plateau(
    Conversion("x", _with_cooldown, _with_cooldown),
    "During the cooldown torch goes on to note the best loss, paddle does not: afterwards they count bad steps from other values.",
    "cooldown > 0",
    Configuration("cooldown 50, falling losses", {"factor": 0.5, "patience": 20, "cooldown": 50}),
    Configuration("cooldown 50, flat losses", {"factor": 0.5, "patience": 20, "cooldown": 50}, metric="flat"),
    Configuration("cooldown 50, losses up and down", {"factor": 0.5, "patience": 20, "cooldown": 50}, metric="zigzag"),
)

PLATEAU_NAN = _plateau(
    Conversion("x", _without_cooldown, _without_cooldown),
    "best starts as the first loss in paddle, as infinity in torch: no loss is better than NaN.",
    "the first loss is NaN",
    Configuration("defaults, NaN first", metric="nan_first"),
)

SCHEDULE_BASE = Pairing(
    "schedule",
    _TORCH + "LRScheduler",
    _PADDLE + "LRScheduler",
    difference="The base class. torch's is built over an optimizer; paddle's is built first and given to it as learning_rate.",
    is_base=True,
)

OWN_SCHEDULES = (
    LAMBDA, MULTIPLICATIVE, STEP, MULTI_STEP, LINEAR, EXPONENTIAL, POLYNOMIAL, COSINE, WARM_RESTARTS, CYCLIC, ONE_CYCLE,
    PLATEAU, PLATEAU_COOLDOWN, PLATEAU_NAN, SCHEDULE_BASE,
)  # fmt: skip
