"""Schedules that the other framework has only as a composition or as a lambda in closed form.

Sources: torch 2.13.0 ``torch/optim/lr_scheduler.py`` and ``swa_utils.py``, paddle 3.3.1 ``paddle/optimizer/lr.py``.
"""

from __future__ import annotations

from stepalign.coordinator.atlas.applying import convert
from stepalign.coordinator.atlas.calls import BASE_RATE, Call, Expression
from stepalign.coordinator.atlas.closed_forms import factor_of, lambda_decay, lambda_schedule, sequence_factor
from stepalign.coordinator.atlas.conversions import paddle_execution
from stepalign.coordinator.atlas.pairing import Argument, Configuration, NoCounterpart, Pairing
from stepalign.coordinator.atlas.schedules import LAST_EPOCH, OWN_SCHEDULES

AT_RATE = Expression("rate")
"""Stands in a configuration for the base rate that it is measured with."""

_TORCH, _PADDLE = "torch.optim.lr_scheduler.", "paddle.optimizer.lr."
_RATE_IN_CALL = Argument(torch=BASE_RATE, execution=True)
_FIVE_WARM = Call(_TORCH + "LinearLR", {"start_factor": 0.01, "end_factor": 1.0, "total_iters": 100})


def _torch_only(**defaults: object) -> tuple[Argument, ...]:
    return tuple(Argument(torch=name, torch_default=value, execution=True) for name, value in defaults.items())


def _paddle_only(*names: str, **defaults: object) -> tuple[Argument, ...]:
    required = tuple(Argument(paddle=name, execution=True) for name in names)
    return required + tuple(
        Argument(paddle=name, paddle_default=value, execution=True) for name, value in defaults.items()
    )


def _required(*names: str) -> tuple[Argument, ...]:
    return tuple(Argument(torch=name, execution=True) for name in names)


def _constant(call: Call) -> Call:
    rate, given = float(call.arguments[BASE_RATE]), call.arguments
    return Call(
        _PADDLE + "PiecewiseDecay",
        {"boundaries": [int(given["total_iters"])], "values": [rate * float(given["factor"]), rate]},
    )


CONSTANT = Pairing(
    "schedule",
    _TORCH + "ConstantLR",
    _PADDLE + "PiecewiseDecay",
    (
        _RATE_IN_CALL,
        Argument(torch="factor", torch_default=1 / 3, execution=True, note="values=[factor * lr, lr]"),
        Argument(torch="total_iters", torch_default=5, execution=True, note="boundaries=[total_iters]"),
        *_paddle_only("boundaries", "values"),
        *LAST_EPOCH,
    ),
    "PiecewiseDecay([total_iters], [factor * lr, lr]).",
    _constant,
    configurations=(
        Configuration("defaults"),
        Configuration("0.1 for 500", {"factor": 0.1, "total_iters": 500}),
    ),
)


def _warm_up(call: Call) -> Call:
    """LinearLR up to the base rate, then one other schedule: paddle's LinearWarmup around that schedule."""
    rate = float(call.arguments[BASE_RATE])
    parts, milestones = list(call.arguments["schedulers"]), list(call.arguments["milestones"])
    if len(parts) != 2 or parts[0].name != "LinearLR":
        raise NoCounterpart("only a LinearLR followed by one schedule is paddle's LinearWarmup")
    first = {"start_factor": 1 / 3, "end_factor": 1.0, "total_iters": 5, **parts[0].arguments}
    if first["end_factor"] != 1.0 or first["total_iters"] != milestones[0]:
        raise NoCounterpart("LinearWarmup ends at the base rate, at the step at which the next schedule begins")
    pairing = next((item for item in OWN_SCHEDULES if item.torch == parts[1].target and item.configurations), None)
    if pairing is None or pairing.to_paddle is not None:
        raise NoCounterpart(f"{parts[1].name} does not stand inside LinearWarmup")
    arguments = {**pairing.defaults("torch"), **parts[1].arguments, BASE_RATE: rate}
    after = Call(pairing.paddle, convert(pairing, arguments, "torch"))
    return Call(
        _PADDLE + "LinearWarmup",
        {
            "learning_rate": after,
            "warmup_steps": int(milestones[0]),
            "start_lr": float(first["start_factor"]) * rate,
            "end_lr": rate,
        },
    )


_SEQUENCE = (*_required("schedulers", "milestones"), _RATE_IN_CALL)

WARM_UP = Pairing(
    "schedule",
    _TORCH + "SequentialLR",
    _PADDLE + "LinearWarmup",
    (
        *_SEQUENCE,
        *_paddle_only("learning_rate", "warmup_steps", "start_lr", "end_lr"),
        *LAST_EPOCH,
    ),
    "SequentialLR([LinearLR(f, 1, W), S], [W]) is LinearWarmup(S, W, f * lr, lr). paddle refuses start_lr >= end_lr.",
    _warm_up,
    configurations=tuple(
        Configuration(name, {"schedulers": [_FIVE_WARM, after], "milestones": [100]})
        for name, after in (
            ("warm-up, cosine", Call(_TORCH + "CosineAnnealingLR", {"T_max": 900})),
            ("warm-up, steps", Call(_TORCH + "StepLR", {"step_size": 200, "gamma": 0.5})),
            ("warm-up, exponential", Call(_TORCH + "ExponentialLR", {"gamma": 0.99})),
            ("warm-up, polynomial", Call(_TORCH + "PolynomialLR", {"total_iters": 900, "power": 2.0})),
        )
    ),
    variant="warm-up first",
)


def _sequence(call: Call) -> Call:
    return lambda_decay(call, sequence_factor(call, float(call.arguments[BASE_RATE])))


SEQUENCE = Pairing(
    "schedule",
    _TORCH + "SequentialLR",
    _PADDLE + "LambdaDecay",
    (*_SEQUENCE, *_paddle_only("learning_rate", "lr_lambda"), *LAST_EPOCH),
    "No class: the factors in closed form, each counted from its own milestone, as one lambda.",
    _sequence,
    configurations=(
        Configuration(
            "constant, exponential",
            {
                "schedulers": [
                    Call(_TORCH + "ConstantLR", {"factor": 0.1, "total_iters": 100}),
                    Call(_TORCH + "ExponentialLR", {"gamma": 0.99}),
                ],
                "milestones": [100],
            },
        ),
        Configuration(
            "linear, steps, cosine",
            {
                "schedulers": [
                    _FIVE_WARM,
                    Call(_TORCH + "StepLR", {"step_size": 100, "gamma": 0.5}),
                    Call(_TORCH + "CosineAnnealingLR", {"T_max": 500}),
                ],
                "milestones": [100, 500],
            },
        ),
    ),
    variant="any sequence",
)


def _chain(call: Call) -> Call:
    return lambda_decay(call, factor_of(call, float(call.arguments[BASE_RATE])))


CHAIN = Pairing(
    "schedule",
    _TORCH + "ChainedScheduler",
    _PADDLE + "LambdaDecay",
    (
        *_required("schedulers"),
        Argument(torch="optimizer", torch_default=None, execution=True),
        _RATE_IN_CALL,
        *_paddle_only("learning_rate", "lr_lambda"),
        *LAST_EPOCH[1:],
    ),
    "No class: the product of the factors in closed form as one lambda.",
    _chain,
    configurations=(
        Configuration(
            "constant and exponential",
            {
                "schedulers": [
                    Call(_TORCH + "ConstantLR", {"factor": 0.1, "total_iters": 100}),
                    Call(_TORCH + "ExponentialLR", {"gamma": 0.99}),
                ]
            },
        ),
        Configuration(
            "linear and steps",
            {"schedulers": [_FIVE_WARM, Call(_TORCH + "StepLR", {"step_size": 200, "gamma": 0.5})]},
        ),
    ),
)


def _averaging(call: Call) -> Call:
    given = call.arguments
    share = f"min(max(step / {int(given['anneal_epochs'])}, 0.0), 1.0)"
    if given["anneal_strategy"] == "cos":
        share = f"(1.0 - math.cos(math.pi * {share})) / 2.0"
    target = float(given["swa_lr"]) / float(given[BASE_RATE])
    return lambda_decay(call, f"1.0 + ({target!r} - 1.0) * {share}")


SWA = Pairing(
    "schedule",
    "torch.optim.swa_utils.SWALR",
    _PADDLE + "LambdaDecay",
    (
        _RATE_IN_CALL,
        *_required("swa_lr"),
        *_torch_only(anneal_epochs=10, anneal_strategy="cos"),
        *_paddle_only("learning_rate", "lr_lambda"),
        *LAST_EPOCH,
    ),
    "No class: lr + (swa_lr - lr) * a(t), with a rising to 1 in anneal_epochs steps, as a lambda.",
    _averaging,
    configurations=(
        Configuration("cosine, 10 steps", {"swa_lr": 0.05}),
        Configuration("linear, 500 steps", {"swa_lr": 0.05, "anneal_epochs": 500, "anneal_strategy": "linear"}),
    ),
)


def _noam(call: Call) -> Call:
    given = call.arguments
    rate, size, steps = float(given["learning_rate"]), int(given["d_model"]), int(given["warmup_steps"])
    return lambda_schedule(
        rate, f"{size} ** -0.5 * min(1.0 if step == 0 else step ** -0.5, step * {steps} ** -1.5)"
    )


def _natural(call: Call) -> Call:
    return lambda_schedule(
        float(call.arguments["learning_rate"]), f"math.exp(-{float(call.arguments['gamma'])!r} * step)"
    )


def _inverse(call: Call) -> Call:
    return lambda_schedule(
        float(call.arguments["learning_rate"]), f"1.0 / (1.0 + {float(call.arguments['gamma'])!r} * step)"
    )


def _pieces(call: Call) -> Call:
    bounds, values = list(call.arguments["boundaries"]), [float(value) for value in call.arguments["values"]]
    first = values[0]
    shares = [value / first for value in values]
    return lambda_schedule(first, f"{shares!r}[sum(step >= each for each in {bounds!r})]")


def _cycles(call: Call) -> Call:
    given = call.arguments
    rate, end, power = float(given["learning_rate"]), float(given["end_lr"]), float(given["power"])
    steps = int(given["decay_steps"])
    span = f"{steps} * max(1, math.ceil(step / {steps}))" if given["cycle"] else str(steps)
    now = "step" if given["cycle"] else f"min(step, {steps})"
    return lambda_schedule(rate, f"{1.0 - end / rate!r} * (1.0 - {now} / ({span})) ** {power!r} + {end / rate!r}")


def _paddle_warm_up(call: Call) -> Call:
    given = call.arguments
    after, steps = given["learning_rate"], int(given["warmup_steps"])
    if isinstance(after, Call):
        raise NoCounterpart("a schedule inside LinearWarmup: SequentialLR([LinearLR, schedule], [warmup_steps])")
    rate, start, end = float(after), float(given["start_lr"]), float(given["end_lr"])
    rising = f"({start / rate!r} + {(end - start) / rate!r} * step / {steps})"
    return lambda_schedule(rate, f"{rising} if step < {steps} else 1.0")


def _from_paddle(
    name: str, to_torch: object, arguments: tuple[Argument, ...], difference: str, *configurations: Configuration,
    variant: str = "",
) -> Pairing:  # fmt: skip
    return Pairing(
        "schedule",
        _TORCH + "LambdaLR",
        _PADDLE + name,
        (
            _RATE_IN_CALL, Argument(torch="lr_lambda", execution=True), *LAST_EPOCH[:1], *arguments,
            *_paddle_only(last_epoch=-1), *paddle_execution("verbose"),
        ),
        difference,
        to_torch=to_torch,  # type: ignore[arg-type]
        configurations=configurations,
        variant=variant,
    )  # fmt: skip


NOAM = _from_paddle(
    "NoamDecay",
    _noam,
    _paddle_only("d_model", "warmup_steps", learning_rate=1.0),
    "lr * d_model ** -0.5 * min(t ** -0.5, t * warmup_steps ** -1.5) with t from 0: the first rate is 0, where the usual "
    "form counts from 1.",
    Configuration("512, 100", {"learning_rate": AT_RATE, "d_model": 512, "warmup_steps": 100}, side="paddle"),
)
NATURAL = _from_paddle(
    "NaturalExpDecay", _natural, _paddle_only("learning_rate", "gamma"), "lr * exp(-gamma * t).",
    Configuration("gamma 0.01", {"learning_rate": AT_RATE, "gamma": 0.01}, side="paddle"),
)  # fmt: skip
INVERSE = _from_paddle(
    "InverseTimeDecay", _inverse, _paddle_only("learning_rate", "gamma"), "lr / (1 + gamma * t).",
    Configuration("gamma 0.1", {"learning_rate": AT_RATE, "gamma": 0.1}, side="paddle"),
)  # fmt: skip
PIECES = _from_paddle(
    "PiecewiseDecay", _pieces, _paddle_only("boundaries", "values"), "values[number of boundaries that t has reached].",
    Configuration("three values", {"boundaries": [100, 600], "values": [0.1, 0.05, 0.001]}, side="paddle"),
)  # fmt: skip
CYCLES = _from_paddle(
    "PolynomialDecay",
    _cycles,
    _paddle_only("learning_rate", "decay_steps", end_lr=0.0001, power=1.0, cycle=False),
    "(lr - end_lr) * (1 - t / n) ** power + end_lr; with cycle=True n is decay_steps * ceil(t / decay_steps).",
    Configuration(
        "cycles of 200",
        {"learning_rate": AT_RATE, "decay_steps": 200, "end_lr": 1e-5, "power": 2.0, "cycle": True},
        side="paddle",
    ),
    Configuration("defaults, 500 steps", {"learning_rate": AT_RATE, "decay_steps": 500}, side="paddle"),
    variant="end_lr, cycle",
)
PADDLE_WARM_UP = _from_paddle(
    "LinearWarmup",
    _paddle_warm_up,
    _paddle_only("learning_rate", "warmup_steps", "start_lr", "end_lr"),
    "start_lr + (end_lr - start_lr) * t / warmup_steps, then the rate. With start_lr=0 torch's LinearLR, whose start_factor "
    "must be above 0, cannot do it.",
    Configuration("from 0", {"learning_rate": AT_RATE, "warmup_steps": 100, "start_lr": 0.0, "end_lr": AT_RATE}, side="paddle"),
)

COMPOSED_SCHEDULES = (
    CONSTANT, WARM_UP, SEQUENCE, CHAIN, SWA, NOAM, NATURAL, INVERSE, PIECES, CYCLES, PADDLE_WARM_UP,
)  # fmt: skip
