"""Every port of the suite, by name."""

from __future__ import annotations

from fnmatch import fnmatchcase

from benchmarks.ports.correct_ports import CORRECT
from benchmarks.ports.faults import (
    attention,
    averages,
    codes,
    contrastive,
    decay,
    decoding,
    gradients,
    inputs,
    layers,
    losses,
    numbers,
    optimizers,
    schedules,
)
from benchmarks.ports.port import Port

PORTS: tuple[Port, ...] = (
    CORRECT
    + inputs.FAULTS
    + schedules.FAULTS
    + attention.FAULTS
    + decoding.FAULTS
    + contrastive.FAULTS
    + averages.FAULTS
    + codes.FAULTS
    + layers.FAULTS
    + losses.FAULTS
    + gradients.FAULTS
    + optimizers.FAULTS
    + decay.FAULTS
    + numbers.FAULTS
)


def select(pattern: str, quick: bool) -> list[Port]:
    """Return the ports whose name fits the glob, only the quick ones if asked."""
    return [port for port in PORTS if fnmatchcase(port.name, pattern) and (port.quick or not quick)]
