"""How causes speak of numbers and names: short, exact enough to check, the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable

NAMES_SHOWN = 3


def names(values: Iterable[str]) -> str:
    """Return up to three different names and the count of the others: ``a, b, c and 21 more``."""
    unique = list(dict.fromkeys(values))
    shown = ", ".join(unique[:NAMES_SHOWN])
    rest = len(unique) - NAMES_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown


def number(value: object) -> str:
    """Return a value as people write it: floats with up to seven digits, everything else as it prints."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.7g}"


def count(amount: int, noun: str) -> str:
    """Return ``1 parameter`` or ``3 parameters``."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"
