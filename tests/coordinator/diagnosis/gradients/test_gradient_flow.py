"""Gradients that differ by the gradient of another output, as a detach or a straight-through step on one side makes them."""

from __future__ import annotations

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.gradients.gradient_flow import explain_flow

RANDOM = np.random.default_rng(5)
GRADIENT = RANDOM.normal(size=(2, 4, 3, 3)).astype(np.float32)
FURTHER = [("decoder", RANDOM.normal(size=(2, 1, 6, 6)).astype(np.float32)), ("quantizer:0", GRADIENT)]
OWN = (0.1 * RANDOM.normal(size=(18, 4))).astype(np.float32)
AS_ROWS = GRADIENT.transpose(0, 2, 3, 1).reshape(18, 4)


@pytest.mark.parametrize(
    ("torch", "paddle", "code", "said"),
    [
        (OWN, OWN + AS_ROWS, "not_detached", "torch's plus the gradient of quantizer:0"),
        (OWN + AS_ROWS, OWN, "detached", "torch's without the gradient of quantizer:0"),
    ],
)
def test_a_way_that_is_open_on_one_side_is_told_whatever_the_layout(
    torch: np.ndarray, paddle: np.ndarray, code: str, said: str
) -> None:
    (cause,) = explain_flow("quantizer.codebook", torch, paddle, FURTHER)
    assert cause.code == code and said in cause.evidence


@pytest.mark.parametrize("paddle", [4 * OWN, OWN + 0.9 * AS_ROWS, OWN + AS_ROWS[::-1] * np.float32(1.001), OWN])
def test_another_difference_is_no_way_of_gradients(paddle: np.ndarray) -> None:
    assert explain_flow("quantizer.codebook", OWN, paddle, FURTHER) == []


def test_the_output_that_is_nearest_is_named_where_two_have_one_gradient() -> None:
    further = [("last", AS_ROWS), *FURTHER]
    (cause,) = explain_flow("quantizer.codebook", OWN, OWN + AS_ROWS, further)
    assert "quantizer:0" in cause.evidence
