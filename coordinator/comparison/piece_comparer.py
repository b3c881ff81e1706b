"""Compares two sides' arrays of one name, and remembers the pairs of a step that were only screened."""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

from stepalign.coordinator.comparison.canonical import Arrays
from stepalign.coordinator.comparison.comparison import Comparison, compare_values
from stepalign.coordinator.comparison.screening import Screened, complete_worst
from stepalign.coordinator.comparison.step_scans import Scans, as_stored
from stepalign.coordinator.sessions.naming import NameMap


class PieceComparer:
    """Knows paddle's names and whether values that are not finite may pass; looks at the step's scans first."""

    def __init__(self, names: NameMap, allow_nonfinite: bool, scans: Scans) -> None:
        self._scans = scans
        self.allow_nonfinite = allow_nonfinite
        self._paddle_names = {piece.name: piece.paddle.tensor for piece in names.pieces}
        self._screened: Dict[int, Screened] = {}

    def compare(
        self,
        kind: str,
        step: int,
        name: str,
        pair: Tuple[Arrays, Arrays],
        rtol: float = 0.0,
        atol: float = 0.0,
        key: Optional[str] = None,
    ) -> Comparison:
        """Compare what both sides have under ``name``, or under ``key`` where ``pair`` holds one tensor's slots."""
        key = name if key is None else key
        tensor, slash, slot = name.rpartition("/")
        paddle_name = self._paddle_names.get
        theirs = f"{paddle_name(tensor, tensor)}/{slot}" if slash else paddle_name(name, name)
        exact = kind == "initial_parameter"
        ours, others = as_stored(pair[0], key), as_stored(pair[1], key)
        scanned = self._scans.of(pair, key)
        if scanned is None or not scanned.within(atol):
            ours, others = pair[0].get(key), pair[1].get(key)
        found = compare_values(step, kind, name, theirs, ours, others, rtol, atol, self.allow_nonfinite, exact, scanned)
        self.note(found, pair, key)
        return found

    def note(self, found: Comparison, pair: Tuple[Arrays, Arrays], key: str) -> None:
        """Remember where the arrays of a comparison are found that may have been screened only."""
        if found.measures is not None and not found.measures.complete:
            self._screened[id(found.measures)] = Screened(found.measures, pair, key)

    def complete(self, comparisons: List[Comparison]) -> List[Comparison]:
        """Measure the worst of each kind in full, and forget the step's arrays."""
        completed = complete_worst(comparisons, self._screened) if self._screened else comparisons
        self._screened = {}
        return completed
