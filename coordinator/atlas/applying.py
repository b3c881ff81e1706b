"""Applies one pairing: from a call of one framework to the call of the other, argument by argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stepalign.coordinator.atlas.calls import Call, Value, code_of
from stepalign.coordinator.atlas.pairing import REQUIRED, Argument, NoCounterpart, Pairing, put, take

Side = Literal["torch", "paddle"]


@dataclass(frozen=True)
class Translation:
    """What the other side writes. ``lost`` says, for each argument that it cannot express, what that changes."""

    pairing: Pairing
    call: Call
    lost: tuple[str, ...] = ()


def apply(pairing: Pairing, call: Call, side: Side) -> Translation:
    """Apply one pairing to a call of ``side``. Raises NoCounterpart where a value has none at all."""
    whole = Call(call.target, {**pairing.defaults(side), **call.arguments})
    own, back = (pairing.to_paddle, pairing.to_torch)[:: 1 if side == "torch" else -1]
    if own is None and back is not None:
        raise NoCounterpart(f"{pairing.key} is known in the other direction only")
    there = own(whole) if own is not None else Call(_target(pairing, side), convert(pairing, whole.arguments, side))
    return Translation(pairing, there, losses(pairing, whole.arguments, side))


def convert(pairing: Pairing, arguments: Mapping[str, Value], side: Side) -> dict[str, Value]:
    """Return the other side's arguments, argument by argument; one that is not given is left out.

    An argument that only the other side has is written where its default would change something.
    """
    other: Side = "paddle" if side == "torch" else "torch"
    values: dict[str, Value] = {}
    for item in pairing.arguments:
        ours, theirs = getattr(item, side), getattr(item, other)
        if not theirs or item.execution:
            continue
        if not ours:
            default = getattr(item, f"{other}_default")
            if default is not REQUIRED and item.neutral is not None and default != item.neutral:
                put(values, theirs, item.neutral)
            continue
        try:
            value = take(arguments, ours)
        except KeyError:
            continue
        put(values, theirs, converted(item, value, side))
    return values


def converted(argument: Argument, value: Value, side: Side) -> Value:
    """Return the other side's value of one argument. Raises NoCounterpart where it has none."""
    return argument.conversion.to_paddle(value) if side == "torch" else argument.conversion.to_torch(value)


def losses(pairing: Pairing, arguments: Mapping[str, Value], side: Side) -> tuple[str, ...]:
    """Say of each given argument that the other side lacks, and that is not neutral, what is lost."""
    other: Side = "paddle" if side == "torch" else "torch"
    lost = []
    for item in pairing.arguments:
        ours = getattr(item, side)
        if not ours or getattr(item, other) or item.execution:
            continue
        try:
            value = take(arguments, ours)
        except KeyError:
            continue
        if value != item.neutral:
            lost.append(f"{ours}={code_of(value)}: {item.note or f'{other} has no such argument'}")
    return tuple(lost)


def _target(pairing: Pairing, side: Side) -> str:
    return pairing.paddle if side == "torch" else pairing.torch
