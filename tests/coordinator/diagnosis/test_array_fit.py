"""What a fit finds, and what it leaves to others."""

from __future__ import annotations

import numpy as np
import pytest

from stepalign.coordinator.diagnosis import array_fit as fit

X = np.random.default_rng(0).normal(size=(6, 5))


@pytest.mark.parametrize(("dtypes", "share"), [(("f8", "f8"), 1e-9), (("f8", "f4"), 1e-5), (("f4", "f2"), 2e-2)])
def test_the_coarsest_dtype_says_what_rounding_explains(dtypes: tuple[str, str], share: float) -> None:
    assert fit.rounding(*(np.ones(2, dtype) for dtype in dtypes)) == share


def test_a_fit_explains_what_it_leaves_little_of_or_nothing_but_rounding() -> None:
    assert fit.explains(1.0, 0.01, 1e-5) and not fit.explains(1.0, 0.03, 1e-5)
    assert fit.explains(1e-5, 9e-6, 1e-5) and not fit.explains(1e-5, 9e-6, 1e-6)


def test_a_certainty_is_full_where_rounding_alone_is_left_and_none_from_a_tenth_on() -> None:
    assert fit.certainty(1.0, 1e-6, 1e-5, 0.9) == 0.9
    assert fit.certainty(1.0, 0.05, 1e-5, 0.9) == 0.45
    assert fit.certainty(1.0, 0.1, 1e-5, 0.9) == fit.certainty(1.0, 0.5, 1e-5, 0.9) == 0.0


@pytest.mark.parametrize(("value", "whole"), [(8.0, 8), (8.004, 8), (8.1, None), (2.0, 2), (1.0, None), (0.0, None), (-3.0, None)])
def test_a_whole_number_is_two_or_more(value: float, whole: int | None) -> None:
    assert fit.near_whole(value) == whole


def test_an_order_is_found_in_full_and_the_given_one_is_none() -> None:
    order = np.array([3, 1, 2, 0, 5, 4])
    found = fit.permutation(X, X[order], 0)
    assert found is not None and found.tolist() == order.tolist()
    assert fit.permutation(X, X * (1 + 1e-6), 0) is None
    mixed = X[order].copy()
    mixed[0, 0] += 1.0
    assert fit.permutation(X, mixed, 0) is None


def test_blocks_in_another_order_are_told_from_rows_in_another_order() -> None:
    gates = np.arange(12).reshape(4, 3)
    assert fit.block_order(gates[[0, 2, 1, 3]].ravel()) == (0, 2, 1, 3)
    assert fit.block_order(np.roll(np.arange(12), 1)) is None


def test_a_slice_without_signal_has_the_factor_one() -> None:
    ours = X.copy()
    ours[2] = 0.0
    factors, left = fit.per_slice_factor(ours, 3.0 * ours, 0)
    assert factors.tolist() == pytest.approx([3.0, 3.0, 1.0, 3.0, 3.0, 3.0]) and left < 1e-12
