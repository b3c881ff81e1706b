"""The control's noise: half of the elements, by an ULP (float64: by a part of 1e-8), the same for the same step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepalign.workers.jitter import FLOAT64_STEP, move_half

BITS = {"float16": np.int16, "float32": np.int32}


def ulps(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return by how many representable numbers each element moved."""

    def ordered(array: np.ndarray) -> Any:
        bits = array.view(BITS[array.dtype.name]).astype(np.int64)
        least = np.int64(np.iinfo(BITS[array.dtype.name]).min)
        return np.where(bits < 0, least - bits, bits)

    return ordered(after) - ordered(before)


@pytest.mark.parametrize("dtype", BITS)
def test_half_of_the_elements_move_by_exactly_one_ulp_either_way(dtype: str) -> None:
    array = np.random.default_rng(0).normal(size=(100, 100)).astype(dtype)
    moved = move_half({"w": array}, 3)["w"]
    assert moved.dtype == array.dtype and moved.shape == array.shape
    steps = ulps(array, moved)
    assert set(np.unique(steps)) == {-1, 0, 1}
    for step, share in ((0, 0.5), (1, 0.25), (-1, 0.25)):
        assert abs(np.mean(steps == step) - share) < 0.03


def test_half_of_the_elements_move_by_the_float64_step_either_way() -> None:
    array = np.random.default_rng(0).normal(size=(100, 100))
    moved = move_half({"w": array}, 3)["w"]
    assert moved.dtype == array.dtype and moved.shape == array.shape
    relative = moved / array - 1
    steps = np.sign(relative)
    np.testing.assert_allclose(np.abs(relative), np.abs(steps) * FLOAT64_STEP, rtol=1e-6)
    for step, share in ((0, 0.5), (1, 0.25), (-1, 0.25)):
        assert abs(np.mean(steps == step) - share) < 0.03


def test_the_given_arrays_are_not_touched() -> None:
    array = np.ones(1000, np.float32)
    move_half({"w": array}, 0)
    assert np.all(array == 1)


def test_the_same_step_moves_the_same_and_another_step_and_another_parameter_otherwise() -> None:
    array = np.ones(1000, np.float32)
    first = move_half({"a": array, "b": array}, 0)
    again, later = move_half({"a": array, "b": array}, 0), move_half({"a": array, "b": array}, 1)
    np.testing.assert_array_equal(first["a"], again["a"])
    assert np.any(first["a"] != later["a"]) and np.any(first["a"] != first["b"])


def test_integers_booleans_and_empty_arrays_stay() -> None:
    arrays = {"i": np.arange(5), "b": np.ones(5, bool), "e": np.zeros((0, 3), np.float32), "f": np.ones(50, np.float32)}
    assert list(move_half(arrays, 0)) == ["f"]


def test_a_single_number_keeps_its_shape() -> None:
    moved = [move_half({"s": np.array(1.0, np.float32)}, step)["s"] for step in range(40)]
    assert {array.shape for array in moved} == {()} and {array.dtype.name for array in moved} == {"float32"}
    assert len({float(array) for array in moved}) == 3


def test_special_values_stay_what_they_are_or_move_next_door() -> None:
    array = np.array([np.nan, 0.0, np.inf, -np.inf] * 50, np.float32)
    moved = move_half({"w": array}, 0)["w"]
    assert np.all(np.isnan(moved[0::4]))
    assert np.all(np.abs(moved[1::4]) <= np.finfo(np.float32).smallest_subnormal)
    assert set(moved[2::4]) <= {np.float32(np.inf), np.finfo(np.float32).max}
