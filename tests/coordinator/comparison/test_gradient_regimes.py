"""The gradient sequences that optimizers are driven by."""

from __future__ import annotations

import numpy as np
import pytest

from stepalign.coordinator.comparison.gradient_regimes import NAMES, gradients, initial_parameters, losses

SHAPES = {"a.weight": (4, 3), "a.bias": (3,), "b.weight": (2,)}


@pytest.mark.parametrize("regime", NAMES)
def test_a_regime_gives_the_same_numbers_again_and_others_for_another_seed(regime: str) -> None:
    first, again, other = (gradients(regime, SHAPES, "float32", 9, seed) for seed in (1, 1, 2))
    for ours, theirs in zip(first, again, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) and ours[name].dtype == np.float32 for name in ours)
    assert any(not np.array_equal(ours[name], theirs[name]) for ours, theirs in zip(first, other, strict=True) for name in ours)


def test_the_regimes_have_the_sizes_that_their_names_say() -> None:
    size = {name: [abs(array).max() for step in gradients(name, SHAPES, "float64") for array in step.values()] for name in NAMES}
    assert 1 < max(size["normal"]) < 10 and max(size["small"]) < 1e-3 and max(size["tiny"]) < 1e-7
    mixed = np.concatenate([array.ravel() for array in gradients("mixed", SHAPES, "float64")[0].values()])
    assert abs(mixed).max() / abs(mixed).min() > 1e4


def test_zeros_are_zeros_and_missing_gradients_are_absent() -> None:
    zeros = gradients("zeros", SHAPES, "float64", 6)
    assert not any(array.any() for array in zeros[1].values()) and any(array.any() for array in zeros[2].values())
    missing = [set(step) for step in gradients("missing", SHAPES, "float64", 6)]
    assert "a.weight" not in missing[0] and missing[0] == missing[3] != missing[1]
    assert all(name in set.union(*missing) for name in SHAPES)


def test_parameters_and_losses_are_reproducible_and_an_unknown_name_is_an_error() -> None:
    assert np.array_equal(initial_parameters(SHAPES, "float32")["a.bias"], initial_parameters(SHAPES, "float32")["a.bias"])
    assert np.isnan(losses(5, "nan_first")[0]) and np.isfinite(losses(5, "nan_first")[1:]).all()
    assert losses(100)[0] > losses(100)[-1] and len(set(losses(9, "flat"))) == 1
    with pytest.raises(ValueError, match="unknown regime 'huge'"):
        gradients("huge", SHAPES, "float32")
    with pytest.raises(ValueError, match="unknown losses 'rising'"):
        losses(3, "rising")
