"""What both sides recorded of one step's modules, compared under partner names.

What only one side has, and another dtype or layout, says nothing of numbers. Arguments beside the first tensor may be masks,
which frameworks write in several ways: what may be the same mask is not held to differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, List, Mapping, Optional, Tuple

import numpy as np

from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.comparison.comparison import Comparison, compare_values
from stepalign.coordinator.comparison.tolerances import tolerances
from stepalign.coordinator.diagnosis.modules.mask_causes import FORBIDDEN
from stepalign.coordinator.running.activation_names import (
    argument_of,
    call_of,
    input_partners,
    is_input,
    is_update,
    module_of,
    partner,
)
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.messages import Named

_LATER_STEP_ALLOWANCE = 20.0
"""After the first step the sides' weights already differ a little; a mistake differs by far more."""


@dataclass(frozen=True)
class RecordedStep:
    """What both sides recorded of a step: their arrays, what came of comparing them, and which names belong together."""

    torch: Named
    paddle: Named
    comparisons: Mapping[str, Comparison]
    paths: Mapping[str, str]
    partners: Mapping[str, str]

    def partner(self, key: str) -> str:
        """Return paddle's name for one of torch's."""
        return self.partners.get(key) or partner(key, self.paths)

    def arrays(self, key: str) -> Optional[Tuple[np.ndarray, np.ndarray]]:
        """Return both sides' arrays; None where paddle has none."""
        there = self.partner(key)
        return (self.torch[key], self.paddle[there]) if key in self.torch and there in self.paddle else None

    def inputs(self, call: str) -> List[str]:
        """Return torch's names of what a call was given."""
        return [key for key in self.torch if is_input(key) and call_of(key) == call]


def compare_recorded(case: Case, names: NameMap, torch: Named, paddle: Named, step: int) -> RecordedStep:
    """Compare all that both sides recorded of a step, in the order in which torch's calls ended."""
    tolerance = tolerances(case.file.dtype, case.file.tolerance)["activation"]
    allowed = tolerance.of_tensor * (1.0 if step == 0 else _LATER_STEP_ALLOWANCE)
    paths = dict(names.modules)
    partners = input_partners(torch, paddle, paths)
    comparisons: Dict[str, Comparison] = {}
    for key, array in torch.items():
        further = is_input(key) and bool(argument_of(key))
        there = partners.get(key, "") if further else partner(key, paths)
        if there not in paddle or is_update(key) or module_of(key) not in paths:
            continue
        atol = tolerance.atol + allowed * largest(array)
        item = compare_values(step, "activation", key, there, array, paddle[there], tolerance.rtol, atol)
        comparisons[key] = _as_mask(item, array, paddle[there], atol) if further and differs(item) else item
    return RecordedStep(torch, paddle, comparisons, paths, partners)


def _as_mask(item: Comparison, torch: np.ndarray, paddle: np.ndarray, atol: float) -> Comparison:
    """Judge an argument that may be a mask: frameworks write the same one in several ways.

    What is added to scores agrees where both forbid the same; of flags that are each other's opposite nothing can be said.
    """
    if torch.dtype.kind == "f":
        forbidden = torch <= FORBIDDEN
        same = bool(forbidden.any()) and np.array_equal(forbidden, paddle <= FORBIDDEN)
        if same and np.allclose(torch[~forbidden], paddle[~forbidden], rtol=0.0, atol=atol):
            return replace(item, passed=True)
    flags = bool(np.all((torch == 0) | (torch == 1)))
    if flags and np.array_equal(torch == 0, paddle == 1) and np.array_equal(torch == 1, paddle == 0):
        return replace(item, measures=None, reason="flags that are each other's opposite")
    return item


def largest(array: np.ndarray) -> float:
    """Return the greatest finite magnitude of a floating-point array; 0 of any other."""
    if array.dtype.kind != "f":
        return 0.0
    return float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array)))


def differs(item: Optional[Comparison]) -> bool:
    """Say whether numbers differ; another dtype or layout of an input says nothing of them."""
    return item is not None and not item.passed and not unknown(item)


def unknown(item: Comparison) -> bool:
    """Say whether a comparison tells nothing of numbers."""
    return not item.passed and item.measures is None
