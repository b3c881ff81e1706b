"""The formulas by which the frameworks' own differences are recognised: plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

from stepalign.coordinator.comparison.known_differences import (
    batch_norm_running_variance,
    clip_norm_epsilon,
    noise_driven_running_mean,
)


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_the_biased_variance_is_recognised_however_often_the_module_runs_in_a_step(calls: int) -> None:
    random = np.random.default_rng(calls)
    torch = paddle = before = random.uniform(0.5, 1.5, 16)
    for _ in range(calls):
        variance = random.uniform(0.5, 2.0, 16)
        torch, paddle = 0.9 * torch + 0.1 * variance, 0.9 * paddle + 0.1 * variance * 47 / 48
    known = batch_norm_running_variance("bn", before, torch, before, paddle, 0.1, 1e-9)
    assert known is not None and f"n = {'about ' if calls > 1 else ''}48" in known.evidence


def once(share: float, momentum: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a running variance before, and torch's and paddle's after one call, paddle's with ``share`` of torch's."""
    random = np.random.default_rng(0)
    before, variance = random.uniform(0.5, 1.5, 16), random.uniform(0.5, 2.0, 16)
    return before, (1 - momentum) * before + momentum * variance, (1 - momentum) * before + momentum * share * variance


@pytest.mark.parametrize("count", [2, 3, 1000])
def test_the_biased_variance_of_few_and_of_many_elements_is_recognised(count: int) -> None:
    before, torch, paddle = once((count - 1) / count)
    known = batch_norm_running_variance("bn", before, torch, before, paddle, 0.1, 1e-9)
    assert known is not None and f"n = {count};" in known.evidence


@pytest.mark.parametrize("share", [0.93, 0.3, 1.02])
def test_a_factor_that_no_whole_number_of_elements_gives_is_no_biased_variance(share: float) -> None:
    before, torch, paddle = once(share)
    assert batch_norm_running_variance("bn", before, torch, before, paddle, 0.1, 1e-6) is None


def test_one_variance_from_two_running_ones_is_no_biased_variance() -> None:
    before, other, variance = np.full(4, 1.0), np.full(4, 2.0), np.full(4, 4.0)
    torch, paddle = 0.5 * before + 0.5 * variance, 0.5 * other + 0.5 * variance
    assert batch_norm_running_variance("bn", before, torch, other, paddle, 0.5, 1e-6) is None


def test_statistics_that_do_not_move_are_explained_by_nothing() -> None:
    before, torch, paddle = once(15 / 16)
    assert batch_norm_running_variance("bn", before, torch, before, paddle, 0.0, 1e-6) is None
    bias = {"conv.bias": (before, before + 1.0)}
    assert noise_driven_running_mean("m", (before, before + 1e-3), (before, before + 1e-3), bias, 0.0, 1e-9) is None


def test_another_momentum_is_no_biased_variance() -> None:
    random = np.random.default_rng(0)
    before, variance = random.uniform(0.5, 1.5, 16), random.uniform(0.5, 2.0, 16)
    torch, paddle = 0.9 * before + 0.1 * variance, 0.1 * before + 0.9 * variance
    assert batch_norm_running_variance("bn", before, torch, before, paddle, 0.1, 1e-6) is None


@pytest.mark.parametrize("calls", [1, 2])
def test_a_running_mean_that_follows_a_wandering_bias_is_recognised_and_another_is_not(calls: int) -> None:
    random = np.random.default_rng(1)
    mean, bias = random.standard_normal(8), random.standard_normal(8)
    moved = bias + 1e-3 * random.standard_normal(8)
    before = after = (mean, mean + 1e-4)
    for _ in range(calls):
        given = random.standard_normal(8)
        after = (0.9 * after[0] + 0.1 * (given + bias), 0.9 * after[1] + 0.1 * (given + moved))
    biases = {"other.bias": (np.zeros(5), np.zeros(5)), "conv.bias": (bias, moved)}
    known = noise_driven_running_mean("bn.running_mean", before, after, biases, 0.1, 1e-9)
    assert known is not None and "conv.bias" in known.evidence
    assert ("2 calls a step" in known.evidence) == (calls == 2)
    elsewhere = (after[0], after[1] + 1e-3)
    assert noise_driven_running_mean("m", before, elsewhere, {"conv.bias": (bias, moved)}, 0.1, 1e-9) is None


def test_torchs_epsilon_of_the_clipped_norm_is_recognised_only_at_its_own_size() -> None:
    raw = {"w": np.array([3e-3, 4e-3])}
    norm, limit = 5e-3, 1e-3
    torch = {"w": raw["w"] * limit / (norm + 1e-6)}
    known, factor = clip_norm_epsilon(raw, torch, raw, {"w": raw["w"] * limit / norm})
    assert known is not None and factor == pytest.approx((norm + 1e-6) / norm)
    same, one = clip_norm_epsilon(raw, torch, raw, torch)
    assert same is None and one == 1.0


def test_a_formula_that_leaves_as_much_as_it_explains_is_not_recognised() -> None:
    random = np.random.default_rng(2)
    before, variance = random.uniform(0.5, 1.5, 16), random.uniform(0.5, 2.0, 16)
    torch = 0.9 * before + 0.1 * variance
    paddle = 0.9 * before + 0.1 * variance * 17 / 18 * random.uniform(0.7, 1.1, 16)
    assert batch_norm_running_variance("bn", before, torch, before, paddle, 0.1, 0.1) is None
