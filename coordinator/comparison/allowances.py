"""How far apart two values may be: the tolerance of their kind, scaled by tensor, model, update and drift."""

from __future__ import annotations

import math
from typing import Mapping, Optional, Sequence, Tuple

import numpy as np

from stepalign.coordinator.comparison.blocks import magnitude, spread
from stepalign.coordinator.comparison.canonical import Arrays, Sizes
from stepalign.coordinator.comparison.rates import RATE_ATOL_PER_PEAK
from stepalign.coordinator.comparison.tolerances import Tolerance

_MOST_OF_DRIFT = 0.1
_NOISE_PART = 2.0


class Allowances:
    """rtol and atol of each value of a step. ``drift`` is the parameters' when the step begins, ``size`` knows the step's
    magnitudes.
    """

    def __init__(self, tolerances: Mapping[str, Tolerance]) -> None:
        self.drift = 0.0
        self.size = Sizes()
        self._tolerances = tolerances
        self.peak_rate = 0.0

    def rate(self, rates: Sequence[float]) -> Tuple[float, float]:
        """Return what a rate may differ by; what is next to nothing beside the greatest rate so far is rounding."""
        tolerance = self._tolerances["lr"]
        for rate in rates:
            if abs(rate) > self.peak_rate and math.isfinite(rate):
                self.peak_rate = abs(rate)
        return tolerance.rtol, max(tolerance.atol, RATE_ATOL_PER_PEAK * self.peak_rate)

    def loss(self) -> Tuple[float, float]:
        """Return what a loss may differ by."""
        tolerance = self._tolerances["loss"]
        return tolerance.rtol + tolerance.per_drift * self.drift, tolerance.atol

    def tensor(self, kind: str, reference: Optional[np.ndarray], largest: float) -> Tuple[float, float]:
        """Return the kind's own tolerance, its tensor's and its model's parts (``largest`` of the kind), grown by the
        drift.
        """
        tolerance = self._tolerances[kind]
        size = 0.0 if reference is None else self.size(reference)
        return tolerance.rtol, tolerance.atol + self._part(tolerance) * size + tolerance.of_model * largest

    def buffer(self, buffers: Arrays, name: str) -> Tuple[float, float]:
        """Return what a buffer may differ by; a running mean also by a part of its standard deviation."""
        rtol, atol = self.tensor("buffer", buffers.get(name), 0.0)
        return rtol, atol + self._tolerances["buffer"].of_tensor * deviation_of(buffers, name)

    def parameter(
        self, before: Optional[np.ndarray], after: Optional[np.ndarray], noise: bool
    ) -> Tuple[float, float]:
        """Return what a parameter judged by value may differ by: a part of its update, and rounding of the parameter."""
        tolerance = self._tolerances["parameter"]
        if after is None or before is None:
            return tolerance.rtol, tolerance.atol
        part = _NOISE_PART if noise else self._part(tolerance)
        return tolerance.rtol, tolerance.atol + part * spread(before, after) + self.drift * self.size(before)

    def after_gap(self, reference: Optional[np.ndarray], wider: float) -> Tuple[float, float]:
        """Return what a parameter or a slot may differ by after steps that were not compared: ``wider`` times what a slot
        may after one.
        """
        tolerance = self._tolerances["optimizer_state"]
        size = 0.0 if reference is None else self.size(reference)
        return wider * tolerance.rtol, wider * (tolerance.atol + self._part(tolerance) * size)

    def noise_floor(self, gradients: Arrays) -> float:
        """Return the magnitude below which a gradient is nothing but rounding noise."""
        return self.noise_part() * max((self.size(array) for array in gradients.values()), default=0.0)

    def noise_part(self) -> float:
        """Return the part of the model's greatest gradient below which one is nothing but rounding noise."""
        return self._tolerances["gradient"].of_model

    def _part(self, tolerance: Tolerance) -> float:
        return tolerance.of_tensor + min(tolerance.per_drift * self.drift, _MOST_OF_DRIFT)


def deviation_of(buffers: Arrays, name: str) -> float:
    """Return the standard deviation that belongs to a running mean: a mean of zero is known to a part of it; else 0."""
    stem, found, _ = name.rpartition("running_mean")
    variance = buffers.get(f"{stem}running_var") if found else None
    return math.sqrt(max(magnitude(variance), 0.0)) if variance is not None else 0.0
