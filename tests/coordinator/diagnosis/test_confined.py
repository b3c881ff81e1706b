"""Where two sides differ, told along the axes in which it is a small part; nothing where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.confined import confined

SHAPE = (4, 16, 8)


def differing(places: Any, by: float = 0.5, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    torch = np.random.default_rng(3).normal(size=SHAPE).astype(dtype)
    paddle = torch + np.asarray(1e-8, dtype)
    paddle[places] += by
    return torch, paddle


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (np.s_[:, 0], "position 0 of 16 along axis 1"),
        (np.s_[:, -1], "position 15 of 16 along axis 1"),
        (np.s_[:, 2:6], "positions 2 to 5 of 16 along axis 1"),
        (np.s_[:, [2, 9]], "positions 2, 9 of 16 along axis 1"),
        (np.s_[:, 1::2], "positions 1, 3, ..., 15 of 16 along axis 1"),
        (np.s_[:, [0, 1, 2, 4, 8, 9, 12]], "7 positions from 0 to 12 of 16 along axis 1"),
        (np.s_[..., :4], "positions 0 to 3 of 8 along axis 2"),
        (np.s_[1, 3:5], "positions 3, 4 of 16 along axis 1 and at position 1 of 4 along axis 0"),
        (np.s_[1, 3, 2:4], "position 3 of 16 along axis 1 and at position 1 of 4 along axis 0"),
    ],
)
def test_what_is_confined_is_told_along_its_axes(places: Any, said: str) -> None:
    assert confined(*differing(places), 1e-5, 1e-6) == f"it differs only at {said}"


def test_what_is_all_over_or_nowhere_is_not_told() -> None:
    assert confined(*differing(np.s_[:, :9]), 1e-5, 1e-6) == ""
    assert confined(*differing(np.s_[:0]), 1e-5, 1e-6) == ""
    torch, paddle = differing(np.s_[:, 0])
    assert confined(torch, paddle[:2], 1e-5, 1e-6) == ""
    assert confined(torch[0, 0, 0], paddle[0, 0, 0], 1e-5, 1e-6) == ""


def test_values_that_are_not_finite_differ_unless_they_are_the_same() -> None:
    torch, paddle = differing(np.s_[:0])
    torch[:, 3], paddle[:, 3] = np.inf, np.inf
    assert confined(torch, paddle, 1e-5, 1e-6) == ""
    paddle[:, 5] = np.nan
    assert confined(torch, paddle, 1e-5, 1e-6) == "it differs only at position 5 of 16 along axis 1"


def test_an_infinity_of_torchs_is_not_near_a_finite_value_and_nan_on_both_sides_is_the_same() -> None:
    torch, paddle = differing(np.s_[:0])
    torch[:, 0], paddle[:, 0] = -np.inf, -1e9
    torch[:, 4] = paddle[:, 4] = np.nan
    assert confined(torch, paddle, 1e-5, 1e-6) == "it differs only at position 0 of 16 along axis 1"
    assert confined(torch, paddle.astype(np.complex64), 1e-5, 1e-6) == ""


def test_whole_numbers_and_flags_are_held_to_the_same() -> None:
    torch, paddle = np.zeros((3, 6), np.int64), np.zeros((3, 6), np.int64)
    paddle[:, 4] = 1
    assert confined(torch, paddle, 0.0, 0.0) == "it differs only at position 4 of 6 along axis 1"
    assert confined(torch > 0, paddle > 0, 0.0, 0.0) == "it differs only at position 4 of 6 along axis 1"
