"""What clipping makes of gradients."""

from __future__ import annotations

import numpy as np
import pytest

from stepalign.coordinator.comparison.clip_rules import predict_clip, total_norm

GRADIENTS = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}


def test_torchs_global_norm_has_an_epsilon_and_paddles_has_none() -> None:
    torch = predict_clip("clip_grad_norm_", {"max_norm": 1.0}, GRADIENTS)
    paddle = predict_clip("ClipGradByGlobalNorm", {"max_norm": 1.0}, GRADIENTS)
    assert torch["a"][0] == 3.0 / (5.0 + 1e-6)
    assert paddle["a"][0] == pytest.approx(0.6, abs=1e-15)


def test_a_norm_below_the_limit_changes_nothing() -> None:
    for kind in ("clip_grad_norm_", "ClipGradByGlobalNorm", "ClipGradByNorm"):
        kept = predict_clip(kind, {"max_norm": 6.0}, GRADIENTS)
        np.testing.assert_array_equal(kept["b"], GRADIENTS["b"])


def test_groups_and_tensors_are_clipped_by_their_own_norms() -> None:
    groups = predict_clip("ClipGradByGlobalNorm", {"max_norm": 3.5}, GRADIENTS, [["a"], ["b"]])
    tensors = predict_clip("ClipGradByNorm", {"max_norm": 3.5}, GRADIENTS)
    for clipped in (groups, tensors):
        assert clipped["a"][0] == 3.0
        assert clipped["b"][0, 0] == 3.5


def test_values_are_cut_at_both_ends() -> None:
    cut = predict_clip("clip_value", {"max": 2.0}, {"a": np.array([3.0, -3.0, 1.0])})
    np.testing.assert_array_equal(cut["a"], [2.0, -2.0, 1.0])


def test_values_may_be_cut_at_ends_of_their_own_and_without_a_limit_nothing_is() -> None:
    cut = predict_clip("clip_value", {"max": 2.0, "min": -1.0}, {"a": np.array([3.0, -3.0, 1.0])})
    np.testing.assert_array_equal(cut["a"], [2.0, -1.0, 1.0])
    for kind in ("ClipGradByGlobalNorm", "ClipGradByNorm", "clip_value"):
        np.testing.assert_array_equal(predict_clip(kind, {}, GRADIENTS)["b"], GRADIENTS["b"])


def test_a_norm_of_another_order() -> None:
    assert total_norm(GRADIENTS.values(), 1.0) == 7.0
    assert total_norm(GRADIENTS.values(), float("inf")) == 4.0
    clipped = predict_clip("clip_grad_norm_", {"max_norm": 2.0, "norm_type": float("inf")}, GRADIENTS)
    assert clipped["b"][0, 0] == pytest.approx(2.0, rel=1e-6)


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'ClipBySign'"):
        predict_clip("ClipBySign", {}, GRADIENTS)
