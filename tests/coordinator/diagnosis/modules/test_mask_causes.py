"""Masks that differ, from plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.cause import Cause
from stepalign.coordinator.diagnosis.modules.mask_causes import explain_attention_masks, explain_mask
from stepalign.protocol.specs import ModuleSpec

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


BATCH, HEADS, LENGTH = 2, 2, 3
PADDED = np.array([[False, False, True], [False, False, False]])
CAUSAL = np.triu(np.ones((LENGTH, LENGTH), bool), 1)


def attention(framework_class: str = "paddle.nn.MultiHeadAttention") -> ModuleSpec:
    return ModuleSpec("attn", "MultiheadAttention", framework_class, False, {"num_heads": HEADS})


def masks(torch: dict[str, np.ndarray], paddle: dict[str, np.ndarray], spec: ModuleSpec | None = None) -> list[Cause]:
    return explain_attention_masks("attn", attention("torch.nn.MultiheadAttention"), spec or attention(), torch, paddle)


PADDED_KEPT = ~PADDED[:, None, None, :]
PADDED_ADDED = added(PADDED[:, None, None, :])
PER_HEAD = np.repeat(np.stack([CAUSAL, CAUSAL.T]), HEADS, axis=0)


@pytest.mark.parametrize("torch", [PADDED, added(PADDED, -np.inf)])
@pytest.mark.parametrize(
    "paddle", [PADDED[:, None, None, :], added(~PADDED[:, None, None, :]), PADDED[:, None, None, :].astype(np.int64)]
)
def test_an_inverted_mask_of_attention_is_told(torch: np.ndarray, paddle: np.ndarray) -> None:
    (cause,) = masks({"key_padding_mask": torch, "value": np.ones(3)}, {"attn_mask": paddle})
    assert (cause.category.value, cause.code) == ("forward", "mask") and cause.confidence > 0.9
    assert "torch's key_padding_mask hides 1 of 6, paddle's attn_mask hides 5 of 6; each hides what the other one keeps" in (
        cause.evidence
    )
    assert cause.fix.startswith("invert the mask of attn in the paddle script")


def test_a_mask_that_attention_lacks_in_paddle_is_told_with_how_to_give_it() -> None:
    (cause,) = masks({"attn_mask": CAUSAL}, {})
    assert "torch's attn_mask hides 3 of 9, paddle's masks none" in cause.evidence
    assert "as attn_mask, True where torch's is False" in cause.fix


def test_a_mask_that_torch_lacks_is_told() -> None:
    (cause,) = masks({}, {"attn_mask": PADDED_KEPT})
    assert "torch's masks none, paddle's attn_mask hides 1 of 6; they first differ at [0, 0, 0, 2]" in cause.evidence


def test_one_mask_of_two_that_paddle_lacks_is_told() -> None:
    (cause,) = masks({"attn_mask": CAUSAL, "key_padding_mask": PADDED}, {"attn_mask": PADDED_ADDED})
    assert "torch's key_padding_mask and attn_mask hide 7 of 18, paddle's attn_mask hides 3 of 18" in cause.evidence
    assert "they first differ at [0, 0, 0, 1] of [batch, heads, L, S]" in cause.evidence


@pytest.mark.parametrize(
    ("torch", "paddle"),
    [
        ({"key_padding_mask": PADDED}, {"attn_mask": PADDED_KEPT}),
        ({"key_padding_mask": PADDED}, {"attn_mask": PADDED_ADDED}),
        ({"attn_mask": CAUSAL}, {"attn_mask": ~CAUSAL}),
        ({"attn_mask": CAUSAL, "key_padding_mask": PADDED}, {"attn_mask": PADDED_KEPT & ~CAUSAL}),
        ({"attn_mask": PER_HEAD}, {"attn_mask": ~PER_HEAD.reshape(BATCH, HEADS, LENGTH, LENGTH)}),
        ({"attn_mask": np.zeros((LENGTH, LENGTH), bool)}, {}),
        ({}, {}),
    ],
)
def test_masks_that_hide_the_same_are_none_of_a_cause(torch: dict[str, np.ndarray], paddle: dict[str, np.ndarray]) -> None:
    assert masks(torch, paddle) == []


@pytest.mark.parametrize(
    ("torch", "paddle"),
    [
        ({"attn_mask": np.full((LENGTH, LENGTH), 0.5, np.float32)}, {"attn_mask": CAUSAL}),
        ({"key_padding_mask": PADDED[0]}, {"attn_mask": PADDED_KEPT}),
        ({"attn_mask": PER_HEAD[:3]}, {"attn_mask": CAUSAL}),
        ({"attn_mask": CAUSAL}, {"attn_mask": np.ones((5, 5), bool)}),
        ({"key_padding_mask": PADDED, "attn_mask": np.ones((5, 5), bool)}, {}),
        ({"key_padding_mask": PADDED}, {"attn_mask": np.ones((1, 1, 1, 1, 3), bool)}),
    ],
)
def test_masks_that_are_not_understood_are_left_alone(torch: dict[str, np.ndarray], paddle: dict[str, np.ndarray]) -> None:
    assert masks(torch, paddle) == []


def test_a_layer_of_paddle_that_is_made_like_torchs_hides_where_its_mask_is_true() -> None:
    like = attention("paddle.compat.nn.MultiheadAttention")
    assert masks({"key_padding_mask": PADDED}, {"key_padding_mask": PADDED}, like) == []
    (cause,) = masks({"key_padding_mask": PADDED}, {"key_padding_mask": ~PADDED}, like)
    assert "each hides what the other one keeps" in cause.evidence


def test_other_modules_have_masks_of_another_meaning() -> None:
    own = ModuleSpec("attn", "Attention", "Attention", False)
    assert explain_attention_masks("attn", own, own, {"attn_mask": CAUSAL}, {"attn_mask": CAUSAL}) == []
