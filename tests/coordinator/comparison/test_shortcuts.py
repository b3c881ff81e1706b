"""What is computed once, tried first or left out in judging updates gives what the long way gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.comparison import compiled, tally, update_residual
from stepalign.coordinator.comparison.blocks import magnitude
from stepalign.coordinator.comparison.canonical import Sizes
from stepalign.coordinator.comparison.judged_elements import (
    MOST_SUSPECTS,
    SAMPLED_ELEMENTS,
    choose_elements,
    places_in_transpose,
)
from stepalign.coordinator.comparison.update_residual import UpdateJudgement, judge_update

HYPER: dict[str, Any] = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}


def adamw_step(betas: tuple[float, float], dtype: str = "float32") -> dict[str, Any]:
    """Give the numbers around one AdamW step whose moments were made with ``betas``."""
    random = np.random.default_rng(0)
    before, gradient = random.standard_normal((2, 40, 50))
    first, second = (1 - betas[0]) * gradient, (1 - betas[1]) * gradient**2
    rate = 1e-3
    moved = (first / (1 - betas[0])) / (np.sqrt(second / (1 - betas[1])) + 1e-8)
    after = before.astype(dtype) * (1 - rate * 0.01) - rate * moved
    return {
        "before": before.astype(dtype), "gradient": gradient.astype(dtype), "state_before": {},
        "after": after.astype(dtype), "state_after": {"moment1": first.astype(dtype), "moment2": second.astype(dtype)},
        "lr": rate, "step": 0, "dtype": dtype,
    }  # fmt: skip


def judge(likely: str = "", **changes: Any) -> UpdateJudgement:
    numbers = {**adamw_step((0.9, 0.999)), **changes}
    found = judge_update("AdamW", HYPER, **numbers, likely=likely)
    assert found is not None
    return found


@pytest.mark.parametrize("likely", ["float32_hyperparameters", "float32_betas", "unheard_of"])
def test_a_wrong_update_is_judged_alike_whatever_variant_is_tried_first(likely: str) -> None:
    after = adamw_step((0.9, 0.999))["after"].copy()
    after[3, 4] += 1e-3
    assert judge(likely, after=after) == judge(after=after)
    assert not judge(likely, after=after).fits


def test_a_variant_that_fitted_before_is_the_first_to_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    plain = update_residual._judge

    def noted(*arguments: Any) -> UpdateJudgement | None:
        tried.append(arguments[-1])
        return plain(*arguments)

    monkeypatch.setattr(update_residual, "_judge", noted)
    numbers = adamw_step((float(np.float32(0.9)), float(np.float32(0.999))))
    found = judge_update("AdamW", HYPER, **numbers, likely="float32_hyperparameters")
    assert found is not None and found.fits and found.variant == "float32_hyperparameters"
    assert tried == ["float32_hyperparameters"]


def test_finite_residuals_tally_as_they_do_on_the_way_that_allows_for_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_loaded", dict)
    quick = judge()
    monkeypatch.setattr(tally.math, "isfinite", lambda value: False)
    assert judge() == quick


def test_a_residual_that_is_not_finite_is_tallied_as_infinite() -> None:
    after = adamw_step((0.9, 0.999))["after"].copy()
    after[1, 2] = np.nan
    found = judge(after=after).parameter
    assert found.max_abs == np.inf and found.index == (1, 2) and found.worst == np.inf


@pytest.mark.parametrize("count", [0, 5, MOST_SUSPECTS + 100])
def test_the_judged_sample_is_the_sorted_union_of_suspects_and_an_even_grid(count: int) -> None:
    size = 9 * SAMPLED_ELEMENTS
    suspects = np.sort(np.random.default_rng(0).choice(size, count, replace=False))
    thinned = suspects[:: -(-suspects.size // MOST_SUSPECTS)] if suspects.size > MOST_SUSPECTS else suspects
    chosen = choose_elements(size, suspects)
    assert chosen is not None
    assert np.array_equal(chosen, np.union1d(thinned, np.arange(0, size, (size // SAMPLED_ELEMENTS) | 1)))
    rows = 9 * 32
    places = places_in_transpose(rows, size // rows, chosen)
    stored = np.arange(size).reshape(rows, -1).T.reshape(-1)
    assert np.array_equal(stored[places], chosen)


def test_a_size_is_found_once_for_each_array() -> None:
    size, array = Sizes(), np.array([1.0, -3.0, np.inf])
    assert size(array) == magnitude(array) == 3.0
    array[1] = -9.0
    assert size(array) == 3.0
