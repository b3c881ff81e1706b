"""Which roundings of hyper-parameters a rule may be held against, and what each rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.comparison.rounded_hyperparameters import correction_slack, rounded_hyperparameters


def single(value: float) -> float:
    return float(np.float32(value))


@pytest.mark.parametrize(
    ("rule", "hyper", "names"),
    [
        ("SGD", {"momentum": 0.5, "nesterov": True}, [""]),
        ("SGD", {"momentum": 0.9}, ["", "float32_hyperparameters"]),
        ("SGD", {"momentum": 0.9, "weight_decay": 0.1}, ["", "float32_hyperparameters", "float32_weight_decay"]),
        ("AdamW", {}, ["", "float32_hyperparameters", "float32_weight_decay", "float32_betas"]),
        ("Adam", {}, ["", "float32_hyperparameters", "float32_betas"]),
        ("NAdam", {}, ["", "float32_hyperparameters", "float32_scalars", "float32_betas"]),
        ("ASGD", {"lambd": 0.25}, ["", "float32_scalars"]),
    ],
)
def test_a_rule_has_the_roundings_that_change_its_numbers(rule: str, hyper: dict[str, Any], names: list[str]) -> None:
    assert [name for name, _ in rounded_hyperparameters(rule, hyper)] == names


def test_each_rounding_rounds_what_its_name_says() -> None:
    variants = dict(rounded_hyperparameters("AdamW", {"betas": (0.9, 0.99), "eps": 1e-7}))
    assert variants[""] == {"betas": (0.9, 0.99), "eps": 1e-7}
    every = variants["float32_hyperparameters"]
    assert (every["beta1"], every["beta2"], every["eps"]) == (single(0.9), single(0.99), single(1e-7))
    assert every["weight_decay"] == single(0.01)
    decay = variants["float32_weight_decay"]
    assert (decay["beta1"], decay["eps"], decay["weight_decay"]) == (0.9, 1e-7, single(0.01))
    betas = variants["float32_betas"]
    assert (betas["beta2"], betas["correction_beta1"], betas["correction_beta2"]) == (single(0.99), 0.9, 0.99)


def test_powers_of_the_betas_may_be_as_wrong_as_their_dtype_makes_them() -> None:
    assert correction_slack("SGD", {}, "float32") == correction_slack("Adagrad", {}, "float64") == 0.0
    eps = float(np.finfo(np.float32).eps)
    assert correction_slack("Adam", {"beta1": 0.5, "beta2": 0.75}, "float32") == pytest.approx(0.25 * eps * (2.0 + 4.0))
    assert correction_slack("Adam", {}, "float64") == 1e-11
