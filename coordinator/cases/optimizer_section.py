"""The section ``[optimizer]`` of case.toml: how optimizers are driven by given gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Tuple

from stepalign.coordinator.comparison.gradient_regimes import NAMES, STEPS
from stepalign.protocol.errors import CaseError

OPTIMIZER_PARAMETERS = {
    "embedding.weight": (12, 8),
    "encoder.weight": (8, 8),
    "encoder.bias": (8,),
    "norm.weight": (8,),
    "norm.bias": (8,),
    "head.weight": (4, 8),
    "head.bias": (4,),
}
"""What ``optimizer(case, parameters)`` gets where the case names nothing else: something of every role that groups go by."""


@dataclass(frozen=True)
class OptimizerSection:
    """``[optimizer]``: the comparison of optimizers under given gradients.

    ``parameters``: the shape of each parameter by torch's name, for scripts that define optimizer(case, parameters).
    """

    steps: int = STEPS
    regimes: Tuple[str, ...] = NAMES
    parameters: Dict[str, Tuple[int, ...]] = field(default_factory=lambda: dict(OPTIMIZER_PARAMETERS))


def check_optimizer(path: Path, section: OptimizerSection) -> None:
    """Raise CaseError that names the key whose value cannot be; ``path`` is that of case.toml."""
    if section.steps < 1:
        raise CaseError(f"{path}: optimizer.steps: expected a whole number of at least 1, got {section.steps}")
    for regime in section.regimes:
        if regime not in NAMES:
            raise CaseError(f"{path}: optimizer.regimes: unknown regime {regime!r}; the regimes are {', '.join(NAMES)}")
    if not section.regimes or len(set(section.regimes)) != len(section.regimes):
        raise CaseError(f"{path}: optimizer.regimes: expected at least one of {', '.join(NAMES)}, each once")
    if not section.parameters:
        raise CaseError(f"{path}: optimizer.parameters: expected at least one, as name = [8, 4]")
    for name, shape in section.parameters.items():
        if not name or not all(part.isidentifier() or part.isdigit() for part in name.split(".")):
            raise CaseError(f'{path}: optimizer.parameters: {name!r} is no parameter\'s name, as in "encoder.0.weight"')
        if not shape or min(shape) < 1:
            raise CaseError(f"{path}: optimizer.parameters.{name}: expected sizes of at least 1, got {list(shape)}")
