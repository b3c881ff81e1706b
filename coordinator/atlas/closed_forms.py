"""torch's schedules as factors on the base rate in closed form: what a composition becomes where paddle has none.

Sources: the ``_get_closed_form_lr`` of torch 2.13.0's schedules, and their recursions where they have none.
"""

from __future__ import annotations

from stepalign.coordinator.atlas.calls import BASE_RATE, Call, Expression
from stepalign.coordinator.atlas.pairing import NoCounterpart

_DEFAULTS: dict[str, dict[str, object]] = {
    "StepLR": {"gamma": 0.1},
    "MultiStepLR": {"gamma": 0.1},
    "ConstantLR": {"factor": 1 / 3, "total_iters": 5},
    "LinearLR": {"start_factor": 1 / 3, "end_factor": 1.0, "total_iters": 5},
    "PolynomialLR": {"total_iters": 5, "power": 1.0},
    "CosineAnnealingLR": {"eta_min": 0.0},
}
_FACTORS = {
    "StepLR": "{gamma!r} ** ({t} // {step_size!r})",
    "MultiStepLR": "{gamma!r} ** sum({t} >= each for each in {milestones!r})",
    "ConstantLR": "({factor!r} if {t} < {total_iters!r} else 1.0)",
    "LinearLR": "({start_factor!r} + ({end_factor!r} - {start_factor!r}) * min({t}, {total_iters!r}) / {total_iters!r})",
    "ExponentialLR": "{gamma!r} ** {t}",
    "PolynomialLR": "(1.0 - min({t}, {total_iters!r}) / {total_iters!r}) ** {power!r}",
    "CosineAnnealingLR": (
        "({floor!r} + (1.0 - {floor!r}) * (1.0 + math.cos(math.pi * {t} / {T_max!r})) / 2.0)"
    ),
}


def factor_of(schedule: Call, rate: float, t: str = "step") -> str:
    """Return the code of a schedule's factor on the base ``rate`` at step ``t``.

    Raises NoCounterpart for a schedule without one, such as reduce-on-plateau.
    """
    values = {**_DEFAULTS.get(schedule.name, {}), **schedule.arguments}
    if schedule.name == "LambdaLR":
        function = values["lr_lambda"]
        if isinstance(function, Expression):
            return f"({function.text})({t})"
    if schedule.name == "SequentialLR":
        return sequence_factor(schedule, rate, t)
    if schedule.name == "ChainedScheduler":
        return " * ".join(f"({factor_of(part, rate, t)})" for part in values["schedulers"])
    form = _FACTORS.get(schedule.name)
    if form is None:
        raise NoCounterpart(f"{schedule.name} has no closed form as a factor on the rate")
    if schedule.name == "CosineAnnealingLR":
        values["floor"] = float(values["eta_min"]) / rate
    return form.format(t=t, **values)


def sequence_factor(schedule: Call, rate: float, t: str = "step") -> str:
    """Return the code of a SequentialLR's factor: each schedule counts its steps from its own milestone on."""
    parts, milestones = list(schedule.arguments["schedulers"]), list(schedule.arguments["milestones"])
    text = ""
    for index, part in enumerate(parts):
        start = milestones[index - 1] if index else 0
        factor = factor_of(part, rate, f"({t} - {start})" if start else t)
        text += f"({factor}) if {t} < {milestones[index]} else " if index < len(milestones) else f"({factor})"
    return text


def lambda_decay(schedule: Call, factor: str) -> Call:
    """Return paddle's LambdaDecay of a factor, over the schedule's base rate."""
    return Call(
        "paddle.optimizer.lr.LambdaDecay",
        {"learning_rate": float(schedule.arguments[BASE_RATE]), "lr_lambda": Expression(f"lambda step: {factor}")},
    )


def lambda_schedule(rate: float, factor: str) -> Call:
    """Return torch's LambdaLR of a factor, over a base rate."""
    return Call(
        "torch.optim.lr_scheduler.LambdaLR", {BASE_RATE: rate, "lr_lambda": Expression(f"lambda step: {factor}")}
    )
