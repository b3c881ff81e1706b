"""Rates are compared as numbers: with what comparing them as arrays gives, bit for bit."""

from __future__ import annotations

import itertools
import math
from typing import Optional

import numpy as np
import pytest

from stepalign.coordinator.comparison.allowances import Allowances
from stepalign.coordinator.comparison.comparison import compare_rate, compare_values
from stepalign.coordinator.comparison.rates import RATE_ATOL_PER_PEAK
from stepalign.coordinator.comparison.tolerances import tolerances

RATES = [None, 0.0, -0.0, 1e-3, np.nextafter(1e-3, 1.0).item(), 2e-3, -1e-3, 5e-324, 1e300, -1e300, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize(("torch", "paddle"), [*itertools.product(RATES, RATES)])
@pytest.mark.parametrize(("rtol", "atol"), [(0.0, 0.0), (1e-11, 1e-18), (0.6, 0.0), (0.0, 1e-3)])
def test_rates_are_compared_as_arrays_of_them_are(
    torch: Optional[float], paddle: Optional[float], rtol: float, atol: float
) -> None:
    ours, theirs = (None if value is None else np.asarray(np.float64(value)) for value in (torch, paddle))
    expected = compare_values(3, "lr", "group 0", "group 1", ours, theirs, rtol, atol, exact=True)
    assert repr(compare_rate(3, "group 0", "group 1", torch, paddle, rtol, atol)) == repr(expected)


def test_the_greatest_rate_so_far_is_that_of_all_finite_ones() -> None:
    allowances, peak = Allowances(tolerances("float32", {})), 0.0
    for rates in ([], [1e-3, -2e-3], [math.inf, math.nan], [1e-9], [-math.inf, 5e4], [0.0]):
        peak = max(peak, *(abs(rate) for rate in rates if math.isfinite(rate)), 0.0)
        assert allowances.rate(rates)[1] == max(tolerances("float32", {})["lr"].atol, RATE_ATOL_PER_PEAK * peak)
    assert allowances.peak_rate == 5e4
