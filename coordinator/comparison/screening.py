"""Full measures for what needs them: of each kind the worst, and the elements that are out of tolerance."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, Mapping, NamedTuple, Tuple

import numpy as np

from stepalign.coordinator.comparison.blocks import elements_outside
from stepalign.coordinator.comparison.comparison import Comparison, nearness
from stepalign.coordinator.comparison.measures import Measures, measure

Arrays = Mapping[str, np.ndarray]


class Screened(NamedTuple):
    """What a screen measured, and where both sides' arrays are found, under which key. A tensor may be screened twice in a
    step: a gradient as backward left it, and as the optimizer used it.
    """

    measures: Measures
    pair: Tuple[Arrays, Arrays]
    key: str


def complete_worst(comparisons: List[Comparison], screened: Mapping[int, Screened]) -> List[Comparison]:
    """Measure in full, of each kind, the comparison that came nearest to its tolerance, and the first that did not pass, which
    a rule may have failed; the others were screened.

    ``screened`` goes by the identity of a comparison's measures.
    """
    worst: Dict[str, int] = {}
    for number, item in enumerate(comparisons):
        if item.measures is not None and (
            item.kind not in worst or nearness(item) > nearness(comparisons[worst[item.kind]])
        ):
            worst[item.kind] = number
    completed = list(comparisons)
    failed = [number for number, item in enumerate(comparisons) if not item.passed][:1]
    for number in {*worst.values(), *failed}:
        item = comparisons[number]
        found = screened.get(id(item.measures))
        if found is not None:
            torch, paddle = (side[found.key] for side in found.pair)
            completed[number] = replace(item, measures=measure(torch, paddle, item.rtol, item.atol))
    return completed


def suspects(values: Comparison, pair: Tuple[Arrays, Arrays]) -> np.ndarray:
    """Return the flat indices of the elements that a comparison found out of tolerance."""
    if values.measures is None or not values.measures.outside:
        return np.empty(0, np.int64)
    torch, paddle = pair[0][values.name], pair[1][values.name]
    return elements_outside(torch, paddle, values.rtol, values.atol)
