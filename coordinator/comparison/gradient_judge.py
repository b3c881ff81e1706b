"""Judges gradients, from the loss back: as backward left them, and as the optimizer used them where that is another."""

from __future__ import annotations

from dataclasses import replace
from typing import List, Sequence, Tuple

import numpy as np

from stepalign.coordinator.comparison.allowances import Allowances
from stepalign.coordinator.comparison.canonical import Arrays
from stepalign.coordinator.comparison.comparison import AS_USED, Comparison
from stepalign.coordinator.comparison.known_differences import clip_norm_epsilon
from stepalign.coordinator.comparison.piece_comparer import PieceComparer
from stepalign.coordinator.results.result import KnownDifference
from stepalign.coordinator.sessions.naming import NameMap

Pair = Tuple[Arrays, Arrays]


class GradientJudge:
    """Compares gradients against the scale of their tensor and of the model."""

    def __init__(
        self, names: NameMap, comparer: PieceComparer, allowances: Allowances, clips_inside: bool, strict: bool
    ) -> None:
        self._names = names
        self._comparer = comparer
        self._allowances = allowances
        self._clips_inside = clips_inside
        self._strict = strict

    def judge(self, step: int, raw: Pair, used: Pair, known: List[KnownDifference]) -> List[Comparison]:
        """Return the comparisons of all raw gradients and of the used ones that fail; a known difference of clipping goes
        to ``known``.
        """
        found = self._judge_all(step, raw)
        if used[0] is raw[0] and used[1] is raw[1]:
            return found
        recognised, factor = None, 1.0
        if self._clips_inside:
            recognised, factor = clip_norm_epsilon(raw[0], used[0], raw[1], used[1])
        explained = factor != 1.0 and not self._strict
        if recognised is not None:
            known.append(recognised)
        candidate = (
            {name: (array / factor).astype(array.dtype) for name, array in used[1].items()} if explained else used[1]
        )
        return found + [
            replace(item, reason=f"{AS_USED}: {item.reason}")
            for item in self._judge_all(step, (used[0], candidate))
            if not item.passed
        ]

    def _judge_all(self, step: int, pair: Pair) -> List[Comparison]:
        largest = max((self._allowances.size(array) for array in pair[0].values()), default=0.0)
        return [self._judge_one(step, name, pair, largest) for name in self._backward_order(pair)]

    def _judge_one(self, step: int, name: str, pair: Pair, largest: float) -> Comparison:
        array, other = pair[0].get(name), pair[1].get(name)
        if (array is None) != (other is None):
            present = array if array is not None else other
            if present is not None and not np.any(present):
                theirs = self._names.paddle_name(name)
                return Comparison(step, "gradient", name, theirs, True, reason="zero on one side, none on the other")
        rtol, atol = self._allowances.tensor("gradient", array, largest)
        return self._comparer.compare("gradient", step, name, pair, rtol, atol)

    def _backward_order(self, gradients: Pair) -> Sequence[str]:
        return [
            piece.name
            for piece in reversed(self._names.pieces)
            if piece.kind == "parameter" and (piece.name in gradients[0] or piece.name in gradients[1])
        ]
