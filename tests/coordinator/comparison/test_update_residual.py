"""What a residual shows, and that what matters exceeds what rounding may do."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from stepalign.coordinator.comparison import update_residual
from stepalign.coordinator.comparison.update_residual import UpdateJudgement, judge_update, residual
from stepalign.coordinator.comparison.update_rules import predict
from stepalign.protocol.specs import Scalar

Hyper = Mapping[str, Scalar]


def judged(
    rule: str, ours: Hyper, theirs: Hyper, dtype: str = "float32", lr: float = 1e-3, scale: float = 1e-3, steps: int = 1
) -> UpdateJudgement:
    """Step the rule with ``theirs`` in ``dtype`` and hold its last step against ``ours``."""
    rng = np.random.default_rng(3)
    value, state = (rng.normal(size=(40, 30)) * 0.05).astype(dtype), {}
    for step in range(steps):
        gradient = (rng.normal(size=value.shape) * scale).astype(dtype)
        predicted = predict(rule, theirs, value, gradient, state, lr, step)
        assert predicted is not None
        before, old = value, state
        value = predicted.parameter.astype(dtype)
        state = {slot: array.astype(dtype) for slot, array in predicted.state.items()}
    found = judge_update(rule, ours, before, gradient, old, value, state, lr, steps - 1, dtype)
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop"])
def test_an_update_by_the_rule_fits(rule: str, dtype: str) -> None:
    assert judged(rule, {}, {}, dtype, steps=7).fits


FORMS: list[Hyper] = [
    {"maximize": True},
    {"gradient_scale": 0.5, "weight_decay": 0.1},
    {"l1_decay": 1e-3},
    {"coupled_weight_decay": 0.1},
    {"amsgrad": True},
    {"eps": 1e-3, "eps_before_correction": True},
    {"bias_correction": False},
    {"correction_offset": 1},
    {"weight_decay": 0.3},
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: next(reversed(form)))
def test_a_form_of_a_rule_fits_itself_and_not_the_plain_rule(form: Hyper, dtype: str) -> None:
    for rule in ("Adam", "AdamW"):
        assert judged(rule, form, form, dtype, steps=3).fits
        plain = {name: value for name, value in form.items() if name in ("eps", "weight_decay") and len(form) > 1}
        if form != {"amsgrad": True}:
            assert not judged(rule, plain, form, dtype, steps=3).fits


@pytest.mark.parametrize("decays", [0.02, -0.02])
def test_a_decay_too_small_for_any_element_shows_in_all_of_them_together(decays: float) -> None:
    before = np.random.default_rng(5).normal(size=(200, 200)).astype(np.float32)
    after = (before.astype(np.float64) * (1.0 - 1e-6 * decays) - 1e-6).astype(np.float32)
    found = judge_update("SGD", {}, before, np.ones_like(before), {}, after, {}, 1e-6, 0, "float32")
    assert found is not None and not found.fits and found.parameter.worst <= 1.0
    assert found.parameter.drift == pytest.approx(-1e-6 * decays, rel=0.5)


def test_a_slot_that_is_wrong_beside_a_right_parameter_does_not_fit() -> None:
    before, gradient = (np.random.default_rng(6).normal(size=(2, 30)) * 0.1).astype(np.float32)
    state = {"moment1": np.zeros(30, np.float32), "moment2": np.zeros(30, np.float32)}
    predicted = predict("Adam", {}, before, gradient, state, 1e-3, 0)
    assert predicted is not None
    later = {slot: predicted.state[slot].astype(np.float32) for slot in state}
    after = predicted.parameter.astype(np.float32)
    later["moment2"][7] *= np.float32(1.0 + 4e-6)
    found = judge_update("Adam", {}, before, gradient, state, after, later, 1e-3, 0, "float32")
    assert found is not None and found.parameter.fits and found.state["moment1"].fits
    assert not found.state["moment2"].fits and not found.fits


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("rule", "ours", "theirs", "lr"),
    [
        ("AdamW", {"weight_decay": 0.01}, {"weight_decay": 0.0}, 3e-5),
        ("AdamW", {"weight_decay": 0.01}, {"weight_decay": 0.02}, 3e-5),
        ("AdamW", {"weight_decay": 0.01}, {"weight_decay": 0.01, "decoupled_weight_decay": False}, 3e-5),
        ("Adam", {}, {"eps": 1e-7}, 1e-3),
        ("Adam", {}, {"beta2": 0.99}, 1e-3),
        ("Adam", {}, {"beta1": 0.89}, 1e-3),
        ("Adam", {}, {"correction_offset": 1}, 1e-3),
        ("SGD", {"momentum": 0.9}, {"momentum": 0.899}, 0.1),
        ("SGD", {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9}, 0.1),
        ("SGD", {"weight_decay": 1e-4}, {}, 0.1),
        ("Adagrad", {}, {"eps": 1e-6}, 0.01),
    ],
)
def test_a_wrong_hyperparameter_does_not_fit_in_the_second_step(
    rule: str, ours: Hyper, theirs: Hyper, lr: float, dtype: str
) -> None:
    found = judged(rule, ours, theirs, dtype, lr, steps=2)
    assert not found.fits
    assert found.worst > 2.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax"])
def test_an_update_that_is_a_little_larger_as_a_whole_does_not_fit(rule: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    before, gradient = (rng.normal(size=(2, 40, 30)) * 0.05).astype(dtype)
    predicted = predict(rule, {}, before, gradient, {}, 1.01e-3, 0)
    assert predicted is not None
    after = predicted.parameter.astype(dtype)
    later = {slot: array.astype(dtype) for slot, array in predicted.state.items()}
    for lr, fits in ((1.01e-3, True), (1e-3, False)):
        found = judge_update(rule, {}, before, gradient, {}, after, later, lr, 0, dtype)
        assert found is not None and found.fits == fits


def test_the_share_of_wrong_elements_is_that_of_all() -> None:
    rng = np.random.default_rng(3)
    before, gradient = rng.normal(size=(2, 40, 30)).astype(np.float32)
    after = (before.astype(np.float64) - 1e-3 * gradient).astype(np.float32)
    after[7] += np.float32(1e-4)
    found = judge_update("SGD", {}, before, gradient, {}, after, {}, 1e-3, 0, "float32")
    assert found is not None and found.parameter.outside == 30 / 1200


def test_one_wrong_element_in_a_million_shows_with_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_residual, "CHUNK_ELEMENTS", 1 << 16)
    before = np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32)
    gradient = np.ones_like(before)
    after = (before.astype(np.float64) - 0.01).astype(np.float32)
    after[777, 333] += np.float32(1e-5)
    found = judge_update("SGD", {}, before, gradient, {}, after, {}, 0.01, 0, "float32")
    assert found is not None and not found.fits
    assert found.parameter.index == (777, 333)
    assert found.parameter.outside == pytest.approx(1e-6)


def test_chunks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = judged("AdamW", {}, {"weight_decay": 0.02}, steps=3)
    monkeypatch.setattr(update_residual, "CHUNK_ELEMENTS", 100)
    parts = judged("AdamW", {}, {"weight_decay": 0.02}, steps=3)
    assert parts.parameter.index == whole.parameter.index
    assert parts.parameter.worst == pytest.approx(whole.parameter.worst)
    assert parts.parameter.drift == pytest.approx(whole.parameter.drift)
    assert parts.state.keys() == whole.state.keys()


def test_nan_where_a_number_is_expected_never_fits() -> None:
    before, gradient = np.ones(4, np.float32), np.ones(4, np.float32)
    after = np.array([0.9, 0.9, np.nan, 0.9], np.float32)
    found = judge_update("SGD", {}, before, gradient, {}, after, {}, 0.1, 0, "float32")
    assert found is not None and not found.fits
    assert found.parameter.worst == np.inf and found.parameter.index == (2,)


def test_a_missing_slot_is_another_rule() -> None:
    before, gradient = np.ones(4, np.float32), np.ones(4, np.float32)
    after = np.full(4, 0.9, np.float32)
    found = judge_update("SGD", {"momentum": 0.9}, before, gradient, {}, after, {}, 0.1, 0, "float32")
    assert found is not None and found.missing_slots == ("velocity",) and not found.fits


def test_float32_hyperparameters_in_a_float64_model_are_named() -> None:
    rounded = {"momentum": float(np.float32(0.9))}
    found = judged("SGD", {"momentum": 0.9}, rounded, "float64", 0.1, steps=3)
    assert found.fits and found.variant == "float32_hyperparameters"


def test_a_residual_speaks_in_terms_of_the_update() -> None:
    before = np.full(3, 100.0)
    predicted = predict("SGD", {}, before, np.ones(3), {}, 1e-3, 0)
    assert predicted is not None
    left = residual(predicted, before - 0.9e-3, before, "float64")
    assert left.rel_l2_of_update == pytest.approx(0.1, rel=1e-6)
    assert left.max_abs == pytest.approx(1e-4, rel=1e-6)


def test_an_empty_parameter_fits() -> None:
    nothing = np.zeros((0, 3), np.float32)
    found = judge_update(
        "Adam", {}, nothing, nothing, {}, nothing, {"moment1": nothing, "moment2": nothing}, 0.1, 0, "float32"
    )
    assert found is not None and found.fits
