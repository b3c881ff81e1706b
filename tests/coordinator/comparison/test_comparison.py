"""What passes of two arrays and what does not, and why: one comparison by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stepalign.coordinator.comparison.comparison import Comparison, StepJudgement, compare_values, nearness

ONES = np.ones((2, 3), np.float32)


def compared(torch: object, paddle: object, allow_nonfinite: bool = False, rtol: float = 1e-5) -> Comparison:
    arrays = [None if side is None else np.asarray(side) for side in (torch, paddle)]
    return compare_values(3, "parameter", "w", "v", arrays[0], arrays[1], rtol, 0.0, allow_nonfinite)


def holding(value: float, place: tuple[int, int] = (1, 2)) -> np.ndarray:
    """Return ones of which one is another value."""
    array = ONES.copy()
    array[place] = value
    return array


def test_one_element_out_of_tolerance_fails_with_its_place() -> None:
    assert compared(ONES, holding(1.000005)).passed
    failed = compared(ONES, holding(1.0001))
    assert not failed.passed and not failed.exact
    assert failed.reason == "1 of 6 elements out of tolerance; greatest difference 0.0001 at [1, 2]"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_fails_on_whichever_side_and_rounding_cannot_be_why(value: float) -> None:
    for torch, paddle in ((holding(value), ONES), (ONES, holding(value)), (holding(value), holding(value))):
        failed = compared(torch, paddle)
        assert not failed.passed and failed.exact
        counts = [int(np.count_nonzero(~np.isfinite(side))) for side in (torch, paddle)]
        assert failed.reason == f"not finite: {counts[0]} of 6 elements on torch, {counts[1]} on paddle"


def test_where_it_is_allowed_what_is_not_finite_has_to_be_the_same_at_the_same_place() -> None:
    for value in (math.nan, math.inf):
        assert compared(holding(value), holding(value), allow_nonfinite=True).passed
        for paddle in (holding(value, (0, 0)), holding(-math.inf), ONES):
            assert not compared(holding(value), paddle, allow_nonfinite=True).passed
    assert not compared(holding(math.nan), holding(math.nan) + holding(1.0), allow_nonfinite=True).passed


@pytest.mark.parametrize(
    ("torch", "paddle", "reason"),
    [
        (None, ONES, "the torch side has no parameter w"),
        (ONES, None, "the paddle side has no parameter w"),
        (ONES, ONES.T, "shape [2, 3] on torch, [3, 2] on paddle"),
        (ONES, ONES.astype(np.float64), "dtype float32 on torch, float64 on paddle"),
    ],
)
def test_nothing_is_compared_before_its_shape_and_dtype(torch: object, paddle: object, reason: str) -> None:
    failed = compared(torch, paddle)
    assert (failed.passed, failed.exact, failed.measures, failed.reason) == (False, True, None, reason)


def test_a_difference_beyond_all_numbers_passes_under_no_tolerance() -> None:
    failed = compared([1e308], [-1e308], rtol=10.0)
    assert not failed.passed and nearness(failed) == (True, math.inf)


def test_the_worst_is_what_failed_and_then_what_came_nearest_to_its_tolerance() -> None:
    near, nearer, failed, lacking = (
        compared(ONES, holding(1.000002)), compared(ONES, holding(1.000008)), compared(ONES, holding(1.1)), compared(ONES, None)
    )  # fmt: skip
    assert sorted([failed, nearer, lacking, near], key=nearness) == [near, nearer, lacking, failed]
    assert StepJudgement(3, (near, failed, lacking)).first_failure() is failed
