"""One line of the table: what is measured, the baseline beside it in the same run, and the goal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    steps: int
    repeats: int


@dataclass(frozen=True)
class Measured:
    """A row's outcome. ``ratio`` and ``text`` may stand alone; ``detail`` goes to the JSON file."""

    ratio: float | None
    text: str
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row of the table. ``goal`` is a ratio, or seconds beyond the baseline; ``optional`` rows run on request only."""

    name: str
    what: str
    baseline: str
    goal: str
    measure: Callable[[Options], Measured]
    optional: bool = False
