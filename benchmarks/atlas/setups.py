"""What each side is told to construct for one configuration of a pairing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepalign.coordinator.atlas.applying import apply, convert
from stepalign.coordinator.atlas.calls import BASE_RATE, Call, Expression, Value, map_floats, to_plain
from stepalign.coordinator.atlas.clips import DEFAULT_OPTIMIZER
from stepalign.coordinator.atlas.pairing import Configuration, Pairing
from stepalign.coordinator.atlas.schedules_composed import AT_RATE
from stepalign.coordinator.atlas.translating import translate

_FUNCTIONS = ("clip_grad_norm_", "clip_grad_norm", "clip_grad_value_")


@dataclass(frozen=True)
class Setup:
    """One side's parts. ``clip`` is a call of a function on the parameters, or code; ``groups`` are (prefix, arguments)."""

    optimizer: Call
    schedule: Call | None = None
    clip: Value = None
    groups: tuple[tuple[str, Mapping[str, Value]], ...] = ()
    sparse: bool = False
    steps: int | None = None

    def options(self, change: Any = None) -> dict[str, Any]:
        """Return the options for the driver; ``change`` is applied to every float in them."""
        parts: dict[str, Any] = {
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "clip": self.clip,
            "groups": [[prefix, dict(values)] for prefix, values in self.groups],
        }
        if change is not None:
            parts = map_floats(parts, change)
        return {"setup": {**to_plain(parts), "sparse": self.sparse}}


def setups(pairing: Pairing, configuration: Configuration, rate: float = 0.1) -> tuple[Setup, Setup]:
    """Return torch's setup and paddle's. ``rate`` is the base rate of a schedule."""
    if pairing.kind == "schedule":
        return _of_schedule(pairing, configuration, rate)
    if pairing.kind == "optimizer":
        return _of_optimizer(pairing, configuration)
    return _of_addition(pairing, configuration)


def bare_setups(pairing: Pairing, rate: float) -> tuple[Setup, Setup]:
    """Return both classes with the same rate and nothing else: what a port gets that leaves all defaults alone."""
    return Setup(Call(pairing.torch, {"lr": rate})), Setup(Call(pairing.paddle, {"learning_rate": rate}))


def _both(pairing: Pairing, configuration: Configuration, arguments: Mapping[str, Value]) -> tuple[Call, Call]:
    given = Call(getattr(pairing, configuration.side), {**pairing.defaults(configuration.side), **arguments})
    other = apply(pairing, given, configuration.side).call
    if configuration.side == "torch":
        return _only_given(pairing, given), other
    return other, _only_given(pairing, given)


def _only_given(pairing: Pairing, call: Call) -> Call:
    """Leave out arguments of execution, which stay at the framework's own choice."""
    side = "torch" if call.target == pairing.torch else "paddle"
    names = {getattr(item, side).partition("[")[0] for item in pairing.arguments if item.execution and not item.note}
    kept = {
        name: value
        for name, value in call.arguments.items()
        if name not in names or name in (BASE_RATE,) or value != pairing.defaults(side).get(name)  # type: ignore[arg-type]
    }
    return Call(call.target, kept)


def _of_optimizer(pairing: Pairing, configuration: Configuration) -> tuple[Setup, Setup]:
    torch, paddle = _both(pairing, configuration, configuration.arguments)
    schedule = configuration.schedule
    if schedule is not None:
        over = Call(schedule.target, {**schedule.arguments, BASE_RATE: torch.arguments["lr"]})
        paddle = Call(paddle.target, {**paddle.arguments, "learning_rate": translate(over, "torch")[0].call})
    groups = configuration.groups
    return (
        Setup(torch, schedule, groups=groups, sparse=configuration.sparse, steps=configuration.steps),
        Setup(paddle, groups=_paddle_groups(pairing, groups, torch), sparse=configuration.sparse),
    )


def _paddle_groups(
    pairing: Pairing, groups: tuple[tuple[str, Mapping[str, Value]], ...], torch: Call
) -> tuple[tuple[str, Mapping[str, Value]], ...]:
    """A group's rate multiplies the optimizer's in paddle."""
    found = []
    for prefix, arguments in groups:
        values = convert(pairing, {name: value for name, value in arguments.items() if name != "lr"}, "torch")
        if "lr" in arguments:
            values["learning_rate"] = float(arguments["lr"]) / float(torch.arguments["lr"])
        found.append((prefix, values))
    return tuple(found)


def _of_schedule(pairing: Pairing, configuration: Configuration, rate: float) -> tuple[Setup, Setup]:
    arguments = {name: rate if value == AT_RATE else value for name, value in configuration.arguments.items()}
    if configuration.side == "torch":
        arguments[BASE_RATE] = rate
    torch, paddle = _both(pairing, configuration, arguments)
    start = float(torch.arguments.get(BASE_RATE, rate))
    return (
        Setup(Call("torch.optim.SGD", {"lr": start}), torch),
        Setup(Call("paddle.optimizer.SGD", {"learning_rate": paddle})),
    )


def _of_addition(pairing: Pairing, configuration: Configuration) -> tuple[Setup, Setup]:
    """A clip or regulariser beside an optimizer."""
    base = configuration.optimizer or DEFAULT_OPTIMIZER
    found = translate(base, "torch")[0]
    other, groups = found.call, configuration.groups
    torch, paddle = _both(pairing, configuration, configuration.arguments)
    paddle_groups = _paddle_groups(found.pairing, groups, base)
    clip: Value = torch.arguments.get("each", torch)
    if pairing.kind == "regularizer":
        ours = Setup(base, clip=clip if isinstance(clip, Expression) else None)
        if not isinstance(clip, Expression):
            ours = Setup(Call(base.target, {**base.arguments, **torch.arguments}))
        return ours, Setup(Call(other.target, {**other.arguments, "weight_decay": paddle}))
    if paddle.name in _FUNCTIONS:
        return Setup(base, clip=clip, groups=groups), Setup(other, clip=paddle, groups=paddle_groups)
    with_clip = Call(other.target, {**other.arguments, "grad_clip": paddle})
    return Setup(base, clip=clip, groups=groups), Setup(with_clip, groups=paddle_groups)
