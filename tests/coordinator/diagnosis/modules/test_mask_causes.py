"""Masks that differ, from plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.modules.mask_causes import explain_mask

HIDDEN = np.array([[False, True, True], [False, False, True]])
OTHER = np.array([[False, False, True], [False, False, True]])


def added(hidden: np.ndarray, value: float = -1e9) -> np.ndarray:
    return np.where(hidden, np.float32(value), np.float32(0.0))


@pytest.mark.parametrize(
    ("torch", "paddle"),
    [
        (HIDDEN, OTHER),
        (HIDDEN.astype(np.float32), OTHER.astype(np.float32)),
        (added(HIDDEN, -np.inf), added(OTHER, -1e4)),
    ],
)
def test_another_mask_is_told_with_its_positions(torch: np.ndarray, paddle: np.ndarray) -> None:
    (cause,) = explain_mask("what goes into attn as mask", torch, paddle)
    assert (cause.category.value, cause.code) == ("forward", "mask")
    assert "marks 3 of 6 positions in torch and 2 in paddle; they first differ at [0, 1]" in cause.evidence


def test_a_mask_that_one_side_does_not_build_is_told() -> None:
    (cause,) = explain_mask("mask", added(np.zeros((2, 3), bool)), added(HIDDEN))
    assert "marks 0 of 6 positions in torch and 3 in paddle" in cause.evidence


@pytest.mark.parametrize(
    ("torch", "paddle"),
    [
        (added(HIDDEN), added(HIDDEN, -1e4)),
        (np.array([1, 0, 1]), np.array([0, 0, 1])),
        (np.array([0.5, -2e3], np.float32), np.array([0.5, 0.0], np.float32)),
        (np.zeros(3, np.float32) + 2, np.zeros(3, np.float32)),
    ],
)
def test_what_hides_the_same_or_is_no_mask_is_not_explained(torch: np.ndarray, paddle: np.ndarray) -> None:
    assert explain_mask("mask", torch, paddle) == []
