"""One port of the suite: how its case differs from its family's defaults, and what the verdict must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ACTIVATION = ("activation",)
"""First kind of a fault inside the model, once it is located: activations come before the loss."""

FAINT = ("activation", "loss", "gradient")
"""First kinds of a fault inside the model that activations may be too coarse to show."""

USED_GRADIENT = ("gradient", "optimizer_state", "parameter")
"""First kinds of a fault between backward and the update; the optimizer may hide it until its state or the update."""


@dataclass(frozen=True)
class Expected:
    """What a run must say. Several values mean that each of them is right.

    verdicts: acceptable verdicts; ``refused`` is a run that failed because its case is wrong (exit code 2).
    kinds: of the first divergence; empty where there is none. step: of the first divergence, None where the fault
    does not fix it. categories: of the first cause; empty for a correct port.
    known: codes that ``known_differences`` must contain.
    """

    verdicts: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    step: int | None = None
    categories: tuple[str, ...] = ()
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class Port:
    """A case of one family. ``torch`` and ``paddle`` are that side's options over the common ``options``.

    ``sections`` are further tables of case.toml by name. ``scripts`` names for a side the family script that it
    runs instead of its own, and ``interpreters`` the side whose interpreter it uses: both for ports that are not
    what they claim. ``stream`` feeds a new batch at every step instead of one batch reused.
    """

    name: str
    family: str
    expected: Expected
    options: Mapping[str, Any] = field(default_factory=dict)
    torch: Mapping[str, Any] = field(default_factory=dict)
    paddle: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 10
    mode: str = "eval"
    dtype: str = "float32"
    stream: bool = False
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)
    interpreters: Mapping[str, str] = field(default_factory=dict)
    quick: bool = False
    note: str = ""

    @property
    def faulty(self) -> bool:
        """Whether the port has a fault that must be found."""
        return bool(self.expected.categories)


def correct(
    name: str,
    family: str,
    *,
    verdicts: tuple[str, ...] = ("aligned",),
    known: tuple[str, ...] = (),
    **case: Any,
) -> Port:
    """Return a port without a fault."""
    return Port(name, family, Expected(verdicts, known=known), **case)


def faulty(
    name: str,
    family: str,
    categories: tuple[str, ...] | str,
    kinds: tuple[str, ...] | str,
    step: int | None = 0,
    *,
    verdicts: tuple[str, ...] = ("diverged",),
    **case: Any,
) -> Port:
    """Return a port with a fault of one of ``categories`` that shows first in one of ``kinds`` at ``step``."""
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    categories = (categories,) if isinstance(categories, str) else categories
    return Port(name, family, Expected(verdicts, kinds, step, categories), **case)
