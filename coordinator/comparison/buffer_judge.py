"""Judges buffers: by value, and by what the frameworks are known to do differently to batch statistics."""

from __future__ import annotations

from dataclasses import replace
from typing import List, Optional, Sequence, Tuple

from stepalign.coordinator.comparison.allowances import Allowances
from stepalign.coordinator.comparison.canonical import Arrays
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.comparison.known_differences import batch_norm_running_variance, noise_driven_running_mean
from stepalign.coordinator.comparison.piece_comparer import PieceComparer
from stepalign.coordinator.results.result import KnownDifference
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.specs import Declaration

Pair = Tuple[Arrays, Arrays]


class BufferJudge:
    """Compares buffers after a step, given what they and the parameters were before it."""

    def __init__(
        self, names: NameMap, comparer: PieceComparer, allowances: Allowances, torch: Declaration, strict: bool
    ) -> None:
        self._names = names
        self._comparer = comparer
        self._allowances = allowances
        self._strict = strict
        self._momenta = {
            f"{module.path}.{leaf}".lstrip("."): module.hyperparameters.get("momentum")
            for module in torch.modules
            for leaf in ("running_mean", "running_var")
        }

    def judge(
        self, step: int, before: Pair, after: Pair, wandering: Sequence[str], known: List[KnownDifference]
    ) -> List[Comparison]:
        """Return the comparisons of all buffers; what is recognised goes to ``known``. ``wandering``: parameters that
        only noise moves.
        """
        found = []
        for piece in self._names.pieces:
            if piece.kind != "buffer":
                continue
            rtol, atol = self._allowances.buffer(after[0], piece.name)
            item = self._comparer.compare("buffer", step, piece.name, after, rtol, atol)
            if not self._strict and not item.passed:
                recognised = self._recognise(piece.name, before, after, wandering, atol)
                if recognised is not None:
                    known.append(recognised)
                    item = replace(item, passed=True, reason=recognised.evidence, exact=False)
            found.append(item)
        return found

    def _recognise(
        self, name: str, before: Pair, after: Pair, wandering: Sequence[str], atol: float
    ) -> Optional[KnownDifference]:
        momentum = self._momenta.get(name)
        if any(name not in side for side in (*before, *after)) or not isinstance(momentum, (int, float)):
            return None
        old, new = (before[0][name], before[1][name]), (after[0][name], after[1][name])
        if name.endswith("running_mean"):
            biases = {
                bias: (before[0][bias], before[1][bias]) for bias in wandering if bias in before[0] and bias in before[1]
            }
            return noise_driven_running_mean(name, old, new, biases, float(momentum), atol)
        return batch_norm_running_variance(name, old[0], new[0], old[1], new[1], float(momentum), 2 * atol)
