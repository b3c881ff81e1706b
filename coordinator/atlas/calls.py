"""Constructor calls as values: what a pairing maps, what a worker is told to construct, what a reader can copy.

A `Call` can be shown as code (`code_of`), sent to a worker (`to_plain`), and read back from there (`from_plain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Value: TypeAlias = Any
"""An argument: None, a bool, a number, a string, a `Call`, an `Expression`, or a list, tuple or dict of these."""

_CALL, _EXPRESSION, _TUPLE = "$call", "$expression", "$tuple"


@dataclass(frozen=True)
class Expression:
    """An argument that is Python code, such as a lambda; it may use ``math`` and its own names only."""

    text: str


@dataclass(frozen=True)
class Call:
    """A call of ``target`` (its dotted name, such as ``paddle.optimizer.Adam``) with keyword arguments.

    What the call is made on (``params``, ``parameters``, ``optimizer``) is no argument here: whoever makes the call
    adds it. A torch schedule's base rate stands under `BASE_RATE`, since torch takes it from the optimizer.
    """

    target: str
    arguments: Mapping[str, Value] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of the target."""
        return self.target.rpartition(".")[2]


BASE_RATE = "optimizer.lr"
"""The pseudo-argument of a torch schedule that holds the rate of the optimizer which it is built over."""


def code_of(value: Value, subject: Mapping[str, str] | None = None) -> str:
    """Return Python code that makes ``value``.

    ``subject`` has what the outermost call is made on, by argument name, for example
    ``{"parameters": "model.parameters()"}``; it is written after the other arguments, except ``params`` and
    ``optimizer``, which torch takes first.
    """
    if isinstance(value, Call):
        first = [text for name, text in (subject or {}).items() if name in ("params", "optimizer")]
        last = [f"{name}={text}" for name, text in (subject or {}).items() if name not in ("params", "optimizer")]
        inner = {key: text for key, text in (subject or {}).items() if key == "optimizer"}
        given = [f"{name}={code_of(item, inner)}" for name, item in value.arguments.items() if name != BASE_RATE]
        return f"{value.target}({', '.join([*first, *given, *last])})"
    if isinstance(value, Expression):
        return value.text
    if isinstance(value, tuple):
        inside = ", ".join(code_of(item, subject) for item in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, list):
        return f"[{', '.join(code_of(item, subject) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {code_of(item, subject)}" for key, item in value.items()) + "}"
    return repr(value)


def to_plain(value: Value) -> Value:
    """Return ``value`` as dicts, lists, strings and numbers, for a case's options."""
    if isinstance(value, Call):
        return {_CALL: value.target, "arguments": {name: to_plain(item) for name, item in value.arguments.items()}}
    if isinstance(value, Expression):
        return {_EXPRESSION: value.text}
    if isinstance(value, tuple):
        return {_TUPLE: [to_plain(item) for item in value]}
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def from_plain(value: Value) -> Value:
    """Return what `to_plain` was given."""
    if isinstance(value, Mapping):
        if _CALL in value:
            return Call(value[_CALL], {name: from_plain(item) for name, item in value["arguments"].items()})
        if _EXPRESSION in value:
            return Expression(value[_EXPRESSION])
        if _TUPLE in value:
            return tuple(from_plain(item) for item in value[_TUPLE])
        return {key: from_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    return value


def map_floats(value: Value, function: Any) -> Value:
    """Return ``value`` with ``function`` applied to every float in it; whole numbers and code stay."""
    if isinstance(value, float):
        return function(value)
    if isinstance(value, Call):
        return Call(value.target, {name: map_floats(item, function) for name, item in value.arguments.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(map_floats(item, function) for item in value)
    if isinstance(value, Mapping):
        return {key: map_floats(item, function) for key, item in value.items()}
    return value
