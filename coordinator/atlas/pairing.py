"""What a pairing is: one class of torch, its counterpart in paddle, and how the arguments of one become the other's.

Guarantees: an argument that the other side lacks is named with the value at which it has no effect; a default is
spelled out for both sides; nothing here holds a measured number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from stepalign.coordinator.atlas.calls import Call, Value

Kind = Literal["optimizer", "schedule", "clip", "regularizer"]


class NoCounterpart(ValueError):
    """A value that the other framework cannot express; the message says why and what comes nearest."""


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()
"""Stands for the default of an argument that has none."""


def _same(value: Value) -> Value:
    return value


@dataclass(frozen=True)
class Conversion:
    """How one argument's value becomes the other side's. ``text`` is the formula, with x for torch's value."""

    text: str = "x"
    to_paddle: Callable[[Value], Value] = _same
    to_torch: Callable[[Value], Value] = _same


IDENTICAL = Conversion()


@dataclass(frozen=True)
class Argument:
    """One argument of a pairing: its name, default and conversion on both sides.

    ``torch`` may name a part of a tuple: ``betas[0]``. An argument that one side lacks has an empty name there;
    ``neutral`` is the value at which it changes nothing, and ``note`` says what is lost at any other.
    ``execution`` marks one that decides how, not what, is computed.
    """

    torch: str = ""
    paddle: str = ""
    torch_default: Value = REQUIRED
    paddle_default: Value = REQUIRED
    conversion: Conversion = IDENTICAL
    neutral: Value = None
    execution: bool = False
    note: str = ""


@dataclass(frozen=True)
class Configuration:
    """One way to construct both sides for measuring.

    ``arguments`` are those of ``side``'s class that are not at their default; the other side's follow from the
    pairing. ``schedule`` is a torch schedule beside an optimizer (its counterpart follows from its own pairing).
    ``groups`` gives parameter groups: for each, a prefix of the parameters' names and torch's arguments of the group.
    ``metric`` names the sequence of losses that a reduce-on-plateau schedule watches; ``sparse`` gradients have rows.
    ``optimizer`` is the torch optimizer that a clip or regulariser is measured with. ``steps`` is how many updates are
    measured, where they are not the usual number.
    """

    name: str
    arguments: Mapping[str, Value] = field(default_factory=dict)
    side: Literal["torch", "paddle"] = "torch"
    schedule: Call | None = None
    groups: tuple[tuple[str, Mapping[str, Value]], ...] = ()
    metric: str = "falling"
    sparse: bool = False
    optimizer: Call | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Pairing:
    """One row of the atlas.

    torch, paddle: dotted names of the classes or functions; empty where that side has none.
    arguments: every argument of both, so that a new or lost one in another version is noticed.
    difference: what the counterpart does otherwise, with its formula; empty where it does the same.
    to_paddle, to_torch: where arguments do not map one to one, the call that does the same on the other side; each may
    raise `NoCounterpart`.
    configurations: what is measured; a row without any is one of a class that has no counterpart.
    variant: tells rows of the same two classes apart.
    is_base: says that the row is about an abstract class, of which there is nothing to measure.
    """

    kind: Kind
    torch: str
    paddle: str
    arguments: tuple[Argument, ...] = ()
    difference: str = ""
    to_paddle: Callable[[Call], Call] | None = None
    to_torch: Callable[[Call], Call] | None = None
    configurations: tuple[Configuration, ...] = ()
    variant: str = ""
    is_base: bool = False

    @property
    def key(self) -> str:
        """The name under which measurements of this row are kept."""
        sides = f"{_short(self.torch)} -> {_short(self.paddle)}"
        return f"{sides} ({self.variant})" if self.variant else sides

    def argument(self, side: Literal["torch", "paddle"], name: str) -> Argument | None:
        """Return the argument that ``side`` calls ``name``; None if the pairing has none."""
        return next((item for item in self.arguments if getattr(item, side) == name), None)

    def defaults(self, side: Literal["torch", "paddle"]) -> dict[str, Value]:
        """Return the arguments of ``side`` that have a default, each with it; tuples whole."""
        values: dict[str, Value] = {}
        for item in self.arguments:
            name, default = getattr(item, side), getattr(item, f"{side}_default")
            if name and default is not REQUIRED:
                put(values, name, default)
        return values


def put(values: dict[str, Value], name: str, value: Value) -> None:
    """Set an argument, or with ``name[index]`` one part of a tuple; parts come in order."""
    whole, bracket, index = name.partition("[")
    if not bracket:
        values[name] = value
        return
    parts = list(values.get(whole, ()))
    position = int(index.rstrip("]"))
    parts[position : position + 1] = [value]
    values[whole] = tuple(parts)


def take(values: Mapping[str, Value], name: str) -> Value:
    """Return an argument, or with ``name[index]`` one part of a tuple. Raises KeyError where it is not given."""
    whole, bracket, index = name.partition("[")
    return values[name] if not bracket else values[whole][int(index.rstrip("]"))]


def _short(dotted: str) -> str:
    return dotted.removeprefix("torch.").removeprefix("paddle.") or "none"
