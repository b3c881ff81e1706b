"""Judges tensors that no optimizer holds and that differ by value, by the rule that torch's own numbers follow.

A script moves them itself: averages of weights, target networks, copies. Where torch's is (1 - k) before + k source to
rounding, paddle's numbers are held against the same rule with paddle's own source. So what differs in the source by what no
port can avoid, a bias before a batch norm that only rounding noise moves, is not held against its average. A source counts
only if it passed itself: nothing is excused in a circle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import AbstractSet, Dict, List, Mapping, NamedTuple, Optional, Set, Tuple

import numpy as np

from stepalign.coordinator.comparison.blocks import flat, take
from stepalign.coordinator.comparison.canonical import Arrays
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.comparison.judged_elements import choose_elements
from stepalign.coordinator.comparison.moving_average import (
    Motion,
    Share,
    fit_share,
    follows,
    in_order_of_likeness,
    rule_text,
)
from stepalign.coordinator.comparison.screening import suspects
from stepalign.coordinator.comparison.update_judge import group_of
from stepalign.coordinator.results.result import KnownDifference
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.specs import OptimizerSpec

Pair = Tuple[Arrays, Arrays]


class Around(NamedTuple):
    """Both sides' parameters and buffers before a step and after it, canonical, torch first."""

    before: Pair
    after: Pair


@dataclass(frozen=True)
class Followed:
    """The rule that both sides' numbers of one tensor follow; no ``source`` where it stays as it was."""

    source: str
    share: Share
    residual: float


class AverageJudge:
    """Knows which tensors an optimizer holds, on either side, and which have the same shape.

    ``adrift`` are those that were seen to follow a tensor that only noise moves, or one that is adrift itself.
    """

    def __init__(self, names: NameMap, torch: OptimizerSpec, paddle: OptimizerSpec) -> None:
        self.adrift: Set[str] = set()
        self.held = held_by_an_optimizer(names, torch, paddle)
        self._alike: Dict[Tuple[int, ...], List[str]] = {}
        for piece in names.pieces:
            self._alike.setdefault(piece.shape, []).append(piece.name)
        self._shapes = {piece.name: piece.shape for piece in names.pieces}

    def judge(
        self,
        around: Around,
        items: List[Comparison],
        passed: AbstractSet[str],
        noise: Mapping[str, str],
        known: List[KnownDifference],
    ) -> Tuple[List[Comparison], Dict[str, str]]:
        """Return the comparisons, those that follow a source as passed, and by name the reason of those that then differ.

        ``passed``: what may be a source beside those of ``items`` that passed. ``noise``: tensors that differ though they
        passed, and by what. What differs only for that reason goes to ``known``.
        """
        doubtful = [number for number, item in enumerate(items) if self._is_doubtful(item)]
        if not doubtful:
            return items, {}
        items, found = list(items), dict[str, str]()
        grounded: Set[str] = {*passed, *(item.name for item in items if item.passed)}
        why = dict(noise)
        while True:
            still = []
            for number in doubtful:
                item = items[number]
                followed = self._follow(item, around, grounded)
                if followed is None:
                    still.append(number)
                    continue
                items[number] = replace(item, passed=True, reason="", exact=True)
                if followed.source in why:
                    known.append(_known(item.name, followed, why[followed.source]))
                    why[item.name] = why[followed.source]
                    found[item.name] = why[item.name]
                    self.adrift.add(item.name)
            if len(still) == len(doubtful):
                return items, found
            grounded |= {items[number].name for number in doubtful if number not in still}
            doubtful = still

    def _is_doubtful(self, item: Comparison) -> bool:
        if item.passed or item.name in self.held or item.measures is None:
            return False
        return not (item.measures.reference_nonfinite or item.measures.candidate_nonfinite)

    def _follow(self, item: Comparison, around: Around, grounded: AbstractSet[str]) -> Optional[Followed]:
        """Return the rule that both sides of one tensor follow, each by its own numbers; None where there is none."""
        name = item.name
        if any(name not in side for side in (*around.before, *around.after)):
            return None
        size = int(np.prod(self._shapes[name]))
        chosen = choose_elements(size, suspects(item, around.after))
        before, after = ([_some(side, name, chosen) for side in pair] for pair in (around.before, around.after))
        if np.array_equal(before[0], after[0]):
            stays = follows(_STAYS, Motion(before[1], after[1], before[1]))
            if stays is not None:
                return Followed("", _STAYS, stays)
        others = [other for other in self._alike[self._shapes[name]] if other != name and other in grounded]
        for source in in_order_of_likeness(name, others):
            for pair in (around.after, around.before):
                if any(source not in side for side in pair):
                    continue
                ours, theirs = (
                    Motion(before[side], after[side], _some(pair[side], source, chosen)) for side in (0, 1)
                )
                share = fit_share([ours])
                residual = None if share is None or not share.weight else follows(share, theirs)
                if share is not None and residual is not None:
                    return Followed(source, share, residual)
        return None


_STAYS = Share(0.0, 0.0, 0.0, 0.0)


def held_by_an_optimizer(names: NameMap, torch: OptimizerSpec, paddle: OptimizerSpec) -> Set[str]:
    """Return the canonical names of the tensors that an optimizer of either side holds."""
    ours, theirs = group_of(torch), group_of(paddle)
    return {piece.name for piece in names.pieces if piece.torch.tensor in ours or piece.paddle.tensor in theirs}


def _some(arrays: Arrays, name: str, chosen: Optional[np.ndarray]) -> np.ndarray:
    return flat(arrays[name]) if chosen is None else take(arrays[name], chosen)


def _known(name: str, followed: Followed, why: str) -> KnownDifference:
    return KnownDifference(
        "moving_average",
        name,
        f"moves as torch's does, on either side by its own numbers: it becomes {rule_text(followed.share, followed.source)}, "
        f"and {why}; residual {followed.residual:.1g}",
    )
