"""Rates are compared as numbers: with what comparing them as arrays gives, bit for bit."""

from __future__ import annotations

import itertools
import math
from typing import Optional

import numpy as np
import pytest

from stepalign.coordinator.cases.case import WeightsSection
from stepalign.coordinator.comparison.allowances import Allowances
from stepalign.coordinator.comparison.comparison import compare_rate, compare_values
from stepalign.coordinator.comparison.rates import RATE_ATOL_PER_PEAK, compare_rates, pair_groups
from stepalign.coordinator.comparison.tolerances import tolerances
from stepalign.coordinator.sessions.naming import match_names
from stepalign.protocol.specs import Declaration, GroupSpec

from .judged_steps import SHAPES, declare, with_optimizer

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


RATE_TOLERANCE = tolerances("float32", {})["lr"]


def test_every_step_and_group_at_which_two_schedules_differ_is_told_in_order_of_steps() -> None:
    torch = np.full((6, 2), 1e-3)
    paddle = torch.copy()
    assert [(item.step, item.name, item.passed) for item in compare_rates(torch, paddle, RATE_TOLERANCE)] == [
        (5, "group 0", True),
        (5, "group 1", True),
    ]
    paddle[4, 0], paddle[1, 1], paddle[3, 1] = 1.1e-3, 1e-3 * (1 + 1e-10), math.nan
    found = compare_rates(torch, paddle, RATE_TOLERANCE)
    assert [(item.step, item.name, item.passed) for item in found] == [
        (1, "group 1", False),
        (3, "group 1", False),
        (4, "group 0", False),
    ]
    assert all(item.exact for item in found)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_rate_that_is_not_finite_fails_and_hides_no_other(value: float) -> None:
    right, wrong = np.full((4, 1), 1e-3), np.full((4, 1), 1e-3)
    wrong[1] = value
    for torch, paddle in ((right, wrong), (wrong, right), (wrong, wrong)):
        assert [item.step for item in compare_rates(torch, paddle, RATE_TOLERANCE) if not item.passed] == [1]
    apart = right.copy()
    apart[3] = 2e-3
    assert [item.step for item in compare_rates(wrong, apart, RATE_TOLERANCE) if not item.passed] == [1, 3]


@pytest.mark.parametrize(("rest", "passes"), [(0.9e-15, True), (1.1e-14, False)])
def test_the_rest_of_a_rate_that_decays_to_nothing_is_rounding_beside_its_peak(rest: float, passes: bool) -> None:
    torch, paddle = np.array([[10.0], [0.0]]), np.array([[10.0], [10.0 * rest]])
    assert all(item.passed for item in compare_rates(torch, paddle, RATE_TOLERANCE)) == passes


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_a_group_that_one_schedule_lacks_fails_by_name(side: str) -> None:
    one, two = np.full((3, 1), 1e-3), np.full((3, 2), 1e-3)
    found = compare_rates(*((one, two) if side == "torch" else (two, one)), RATE_TOLERANCE)
    assert [(item.name, item.passed) for item in found] == [("group 1", False), ("group 0", True)]
    assert found[0].reason == f"the {side} side has 1 groups, the other 2"


def paired(torch: Declaration, paddle: Declaration) -> list[tuple[int, int, float]]:
    return pair_groups(match_names(torch.tensors, paddle.tensors, WeightsSection()), torch, paddle)


def test_groups_belong_together_by_the_parameters_that_they_share_and_by_their_place_where_none_is_declared() -> None:
    side = declare("SGD", {"lr": 1.0}, "float32")
    first, *others = SHAPES
    reversed_groups = with_optimizer(side, groups=(GroupSpec(tuple(others), {}), GroupSpec((first,), {})))
    split = with_optimizer(side, groups=(GroupSpec((first,), {}), GroupSpec(tuple(others), {})))
    assert paired(split, reversed_groups) == [(0, 1, 1.0), (1, 0, 1.0)]
    assert paired(side, split) == [(0, 0, 1.0), (0, 1, 1.0)]
    empty = with_optimizer(side, groups=(GroupSpec((), {}), GroupSpec((), {})))
    assert paired(empty, with_optimizer(side, groups=())) == [(0, 0, 1.0), (1, 1, 1.0)]


def test_a_groups_multiplier_is_paddles_over_torchs() -> None:
    side = declare("SGD", {"lr": 1.0}, "float32")
    torch = with_optimizer(side, effective={name: {"lr_multiplier": 0.5} for name in SHAPES})
    paddle = with_optimizer(side, effective={name: {"lr_multiplier": 0.1} for name in SHAPES})
    assert paired(torch, paddle) == [(0, 0, 0.2)]
    assert paired(side, paddle) == [(0, 0, 0.1)]
