"""Full measures for what needs them: of each kind the worst, and the elements that are out of tolerance."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, Mapping, Tuple

import numpy as np

from stepalign.coordinator.comparison.blocks import elements_outside
from stepalign.coordinator.comparison.comparison import Comparison, nearness
from stepalign.coordinator.comparison.measures import measure

Arrays = Mapping[str, np.ndarray]


def complete_worst(
    comparisons: List[Comparison], compared: Mapping[Tuple[str, str], Tuple[Arrays, Arrays, str]]
) -> List[Comparison]:
    """Measure in full, of each kind, the comparison that came nearest to its tolerance; the others were screened.

    ``compared`` says, by kind and name, where both sides' arrays are found, and under which key.
    """
    worst: Dict[str, int] = {}
    for number, item in enumerate(comparisons):
        if item.measures is not None and (
            item.kind not in worst or nearness(item) > nearness(comparisons[worst[item.kind]])
        ):
            worst[item.kind] = number
    completed = list(comparisons)
    for number in worst.values():
        item = comparisons[number]
        if item.measures is not None and not item.measures.complete and (item.kind, item.name) in compared:
            torch, paddle, key = compared[item.kind, item.name]
            completed[number] = replace(item, measures=measure(torch[key], paddle[key], item.rtol, item.atol))
    return completed


def suspects(values: Comparison, pair: Tuple[Arrays, Arrays]) -> np.ndarray:
    """Return the flat indices of the elements that a comparison found out of tolerance."""
    if values.measures is None or not values.measures.outside:
        return np.empty(0, np.int64)
    torch, paddle = pair[0][values.name], pair[1][values.name]
    return elements_outside(torch, paddle, values.rtol, values.atol)
