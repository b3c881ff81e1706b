"""What is left of arrays when their predictions are taken out, added up over chunks of elements."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.comparison.blocks import dot, lane_sum
from stepalign.coordinator.comparison.compiled import TallySums
from stepalign.coordinator.comparison.rule_inputs import Float64Array

_DRIFT_SIGMAS = 15.0


def half_ulps(roundings: int, eps: float) -> float:
    """Return how many ULPs of a parameter so many roundings of it, and the last one, may take; in float64 the
    prediction itself rounds twice more.
    """
    return 0.5 * (roundings + 1 + (2.0 if eps < 1e-12 else 0.0))


@dataclass(frozen=True)
class UpdateResidual:
    """What is left of an array after its prediction is taken out.

    ``worst`` is the greatest quotient of residual and allowance, ``index`` where it is (with ``predicted``, ``actual``,
    ``allowed``), ``outside`` the share of elements above 1. ``rel_l2_of_update`` is the residual's L2 norm over the
    predicted update's. ``factor`` is what one common factor on the update explained. ``drift`` is the residual's
    projection on the parameter (a missing decay of lr * wd shows as it long before any element does).
    """

    max_abs: float
    index: tuple[int, ...]
    predicted: float
    actual: float
    allowed: float
    worst: float
    outside: float
    rel_l2_of_update: float
    factor: float = 0.0
    drift: float = 0.0
    drift_allowed: float = 0.0

    @property
    def fits(self) -> bool:
        """Say whether every element, and the drift, are within what is allowed."""
        return self.worst <= 1.0 and abs(self.drift) <= self.drift_allowed


class Tally:
    """Sums over chunks of one array; `result` turns them into an `UpdateResidual`."""

    def __init__(self, shape: tuple[int, ...], sums: TallySums | None = None) -> None:
        self._shape = shape
        self._offset = 0
        self.sums = TallySums(worst=-1.0) if sums is None else sums

    def add(
        self,
        predicted: Float64Array,
        actual: Float64Array,
        allowed: Float64Array,
        update: Float64Array,
    ) -> Float64Array:
        """Take in one flat chunk; return its residual."""
        difference = actual - predicted
        size = np.abs(difference)
        largest = float(size.max(initial=0.0))
        if math.isfinite(largest) and allowed.min(initial=1.0) > 0.0:
            quotient = np.divide(size, allowed, out=size)
        else:
            quotient, largest = self._resolve_nonfinite(difference, predicted, actual, allowed)
        worst = -1.0
        if quotient.size:
            at = int(np.argmax(quotient))
            worst = float(quotient[at])
            if worst > self.sums.worst:
                self.sums.worst, self.sums.at = worst, self._offset + at
                self.sums.predicted, self.sums.actual = float(predicted[at]), float(actual[at])
                self.sums.allowed = float(allowed[at])
            self.sums.max_abs = max(self.sums.max_abs, largest)
        if not worst <= 1.0:
            self.sums.outside += int(np.count_nonzero(quotient > 1.0))
        self.sums.squares += lane_sum(np.square(difference))
        self.sums.update_squares += lane_sum(np.square(update))
        self._offset += int(difference.size)
        return difference

    @staticmethod
    def _resolve_nonfinite(
        difference: Float64Array, predicted: Float64Array, actual: Float64Array, allowed: Float64Array
    ) -> tuple[Float64Array, float]:
        """Return the quotients and the largest residual where something is not finite or nothing is allowed; equal
        values, NaN with NaN among them, differ by nothing, which is noted in ``difference``.
        """
        same = (predicted == actual) | (np.isnan(predicted) & np.isnan(actual))
        difference[same] = 0.0
        size = np.abs(difference)
        quotient = np.where(size == 0.0, 0.0, size / allowed)
        quotient[np.isnan(quotient)] = np.inf
        return quotient, float(np.max(np.where(np.isnan(size), np.inf, size), initial=0.0))

    def add_drift(self, residual: Float64Array, before: Float64Array, ulps: Float64Array, slope: Float64Array) -> None:
        """Project the residual on the parameter; ``ulps`` is its random part, ``slope`` its systematic allowance."""
        self.sums.along += dot(residual, before)
        self.sums.parameter_squares += dot(before, before)
        self.sums.slope += dot(slope, np.abs(before))
        self.sums.noise += dot(np.square(ulps), np.square(before))

    def result(
        self, factor: float = 0.0, drift_bias: float = 0.0, chosen: npt.NDArray[np.intp] | None = None, count: int = -1
    ) -> UpdateResidual:
        """Return what was found. ``chosen``: where in the array the elements lie; ``count``: how many there were, if
        they were not added here.
        """
        sums = self.sums
        count = self._offset if count < 0 else count
        at = int(sums.at) if chosen is None else int(chosen[sums.at])
        index = tuple(int(i) for i in np.unravel_index(at, self._shape)) if count else ()
        drift = drift_allowed = 0.0
        if sums.parameter_squares > 0.0:
            drift = sums.along / sums.parameter_squares
            drift_allowed = drift_bias + (sums.slope + _DRIFT_SIGMAS * sums.noise**0.5) / sums.parameter_squares
        relative = (sums.squares / sums.update_squares) ** 0.5 if sums.update_squares else float(sums.squares > 0)
        return UpdateResidual(
            sums.max_abs,
            index,
            sums.predicted,
            sums.actual,
            sums.allowed,
            max(sums.worst, 0.0),
            sums.outside / count if count else 0.0,
            relative,
            factor,
            drift,
            drift_allowed,
        )
