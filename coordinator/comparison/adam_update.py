"""Adam and AdamW held against their rule by the compiled loops: what `update_residual` finds by numpy, to the bit.

These two are what most models are trained with; the other rules stay with numpy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from stepalign.coordinator.comparison import compiled
from stepalign.coordinator.comparison.compiled import AdamArrays, AdamRule, Kernels, TallySums, address
from stepalign.coordinator.comparison.rule_inputs import (
    Hyperparameters,
    betas,
    bias_corrections,
    decay_terms,
    updates_before,
)
from stepalign.coordinator.comparison.tally import half_ulps
from stepalign.coordinator.comparison.update_numbers import Elements, UpdateNumbers
from stepalign.protocol.specs import Scalar

_RULES = frozenset({"Adam", "AdamW"})
_MOMENTS = ("moment1", "moment2")
_SIZES_KEPT = 64


class AdamUpdate:
    """One step of one parameter. ``parameter``, ``moment1``, ``moment2`` hold what `tally` found."""

    def __init__(
        self, kernels: Kernels, rule: AdamRule, arrays: Mapping[str, np.ndarray], places: Elements | None, count: int, updates: int
    ) -> None:
        self.updates = updates
        self.roundings = 3 if rule.shrink else 1
        self._kernels = kernels
        self._rule = rule
        self._count = count
        self._pointed_to = (arrays, places)
        self._arrays = AdamArrays(**{name: address(array) for name, array in arrays.items()})
        self._where = None if places is None else address(places)
        self._sums = (TallySums * 3)(*(TallySums(worst=-1.0) for _ in range(3)))
        self.parameter, self.moment1, self.moment2 = self._sums

    def factor_sums(self, most: int) -> tuple[float, float]:
        """Return the sums of weight * update^2 and of weight * update * residual over at most ``most`` elements, evenly
        among those that moved.
        """
        place, count = (ctypes.addressof(self._arrays), self._where), self._count
        moved = self._kernels.adam_moved(*place, count)
        ranks = sample_ranks(moved or count, most)
        sums = (ctypes.c_double * 2)()
        self._kernels.adam_factor(
            ctypes.addressof(self._rule), *place, count, address(ranks), ranks.size, not moved, ctypes.addressof(sums)
        )
        return sums[0], sums[1]

    def tally(self, factor: float, chunk: int) -> bool:
        """Hold all judged elements against the rule; False where something is not finite: then numpy is for it."""
        self._rule.factor = factor
        rule, arrays = ctypes.addressof(self._rule), ctypes.addressof(self._arrays)
        count = self._count
        return bool(self._kernels.adam_judge(rule, arrays, self._where, count, chunk, ctypes.addressof(self._sums)))


@lru_cache(_SIZES_KEPT)
def sample_ranks(size: int, most: int) -> np.ndarray:
    """Return at most ``most`` whole numbers, evenly from 0 to size - 1; not to be written to."""
    ranks = np.linspace(0, max(size - 1, 0), min(size, most)).astype(np.int64)
    ranks.flags.writeable = False
    return ranks


def adam_update(
    rule: str, hyper: Mapping[str, Scalar], numbers: UpdateNumbers, update_epsilons: float, state_epsilons: float
) -> AdamUpdate | None:
    """Return the step for the compiled loops; None where rule, form, dtypes or layout are not theirs."""
    before, after = numbers.whole_state
    if rule not in _RULES or not all(slot in after for slot in _MOMENTS) or ("moment1" in before) != ("moment2" in before):
        return None
    updates = updates_before(before, numbers.step)
    terms = _terms(rule, tuple(hyper.items()), updates, numbers.lr, numbers.dtype, update_epsilons, state_epsilons)
    if terms is None or not numbers.count or numbers.before.dtype != numbers.dtype:
        return None
    named = {
        "before": numbers.before, "gradient": numbers.gradient, "after": numbers.after,
        "later1": after["moment1"], "later2": after["moment2"], **{slot: before[slot] for slot in _MOMENTS if slot in before},
    }  # fmt: skip
    arrays, places = numbers.in_one_order(tuple(named.values()))
    kernels = compiled.for_arrays(*arrays)
    if kernels is None:
        return None
    own = AdamRule.from_buffer_copy(terms)
    return AdamUpdate(kernels, own, dict(zip(named, arrays)), places, numbers.count, updates)


@lru_cache(_SIZES_KEPT)
def _terms(
    rule: str,
    hyper: tuple[tuple[str, Scalar], ...],
    updates: int,
    lr: float,
    dtype: str,
    update_epsilons: float,
    state_epsilons: float,
) -> AdamRule | None:
    """Return the numbers of a step, which many parameters have in common; None where the form is not the loops'."""
    values = Hyperparameters(dict(hyper))
    if values.flag("amsgrad") or values.flag("eps_before_correction"):
        return None
    beta1, beta2 = betas(values)
    coupled, l1, shrink = decay_terms(rule, values, lr)
    if l1 != 0.0:
        return None
    info = np.finfo(dtype)
    eps = float(info.eps)
    with np.errstate(all="ignore"):
        first, second = bias_corrections(values, updates, beta1, beta2)
        return AdamRule(
            gradient_scale=values.number("gradient_scale", 1.0) * (-1.0 if values.flag("maximize") else 1.0),
            coupled=coupled,
            shrink=shrink,
            beta1=beta1,
            beta2=beta2,
            eps=values.number("eps", 1e-8),
            root_correction2=np.sqrt(second),
            correction2=second,
            rate=lr / first,
            half_ulps=half_ulps(3 if shrink else 1, eps),
            update_epsilons=update_epsilons * eps,
            state_epsilons=state_epsilons * eps,
            state_floor=float(info.tiny),
        )
