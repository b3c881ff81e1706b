"""How causes speak of numbers and names: short, exact enough to check, the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable

NAMES_SHOWN = 3

_GOES_INTO = "what goes into "
"""Begins the name of a value that a module is given; a value that one gives has the module's name."""


def names(values: Iterable[str]) -> str:
    """Return up to three different names and the count of the others: ``a, b, c and 21 more``."""
    unique = list(dict.fromkeys(values))
    shown = ", ".join(unique[:NAMES_SHOWN])
    rest = len(unique) - NAMES_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown


def value_of(name: str) -> str:
    """Return a value by its name as a sentence speaks of it: ``the output of a.b``, or ``what goes into a.b``."""
    return name if name.startswith(_GOES_INTO) else f"the output of {name}"


def number(value: object) -> str:
    """Return a value as people write it: floats with up to seven digits, everything else as it prints."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.7g}"


def count(amount: int, noun: str) -> str:
    """Return ``1 parameter`` or ``3 parameters``."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"
