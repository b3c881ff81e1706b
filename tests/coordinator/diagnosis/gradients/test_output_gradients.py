"""What gradients with respect to outputs say of a loss of several terms, and of the first gradient that differs."""

from __future__ import annotations

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.gradients.output_gradients import compare_output_gradients, explain_module_gradient
from stepalign.coordinator.diagnosis.loss.loss_formula import LossSite, explain_loss_formula, softmax_clipping
from stepalign.coordinator.diagnosis.proportions import proportion

RANDOM = np.random.default_rng(3)
FIRST = RANDOM.normal(size=32).astype(np.float32)
SECOND = RANDOM.normal(size=(32, 5)).astype(np.float32)
CLICK = (np.arange(32) % 3 == 0).astype(np.float32)
BATCH = {"x": RANDOM.normal(size=(32, 4)), "user": np.arange(32), "click": CLICK}


def noisy(array: np.ndarray) -> np.ndarray:
    return (array * (1 + 1e-7 * RANDOM.normal(size=array.shape))).astype(np.float32)


def gradients(first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    return {"<model>:0@grad": first, "<model>:1@grad": second}


def evidence(first: np.ndarray, second: np.ndarray) -> str:
    found = compare_output_gradients(gradients(FIRST, SECOND), gradients(noisy(first), noisy(second)), BATCH)
    assert found is not None and found.tells
    return found.evidence


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (np.where(CLICK == 1, 3.0, 1.0), "3 x torch's where click is 1, equal elsewhere"),
        (np.where(CLICK == 0, 1 / 3, 1.0), "1 / 3 x torch's where click is 0, equal elsewhere"),
        (np.where(CLICK == 1, 3.0, 2.0), "3 x torch's where click is 1, 2 x elsewhere"),
        (np.where(np.arange(32) < 9, 3.0, 1.0), "3 x torch's at 9 of 32 elements, equal elsewhere"),
        (2.0, "2 x torch's"),
        (0.37, "0.37 x torch's"),
    ],
)
def test_the_output_whose_gradient_differs_is_named_with_where_and_by_what_factor(
    factor: np.ndarray | float, said: str
) -> None:
    found = evidence(FIRST * factor, SECOND)
    assert f"with respect to <model>:0 the gradient of the loss is {said}" in found
    assert "with respect to <model>:1 it is equal" in found


def test_a_factor_for_each_sample_and_for_each_class_is_told() -> None:
    lengths = 1.0 / RANDOM.integers(5, 9, size=(32, 1))
    assert "a factor for each index of axis 0 (0.125 to 0.2, one over 5, 6, 7, 8" in evidence(FIRST, SECOND * lengths)
    known = {"x": SECOND, "length": np.round(1.0 / lengths[:, 0]).astype(np.int64)}
    assert ", as 1 / length)" in proportion(SECOND, noisy(SECOND * lengths), known).text
    assert ", as length)" in proportion(SECOND, noisy(SECOND / lengths), known).text
    assert ", as" not in proportion(SECOND, noisy(SECOND * lengths), {"x": SECOND, "user": np.arange(1, 33)}).text
    assert "a factor for each index of axis 1 (1 to 3)" in evidence(FIRST, SECOND * np.linspace(1, 3, 5))


def test_where_elements_differ_without_a_factor_is_told() -> None:
    other = np.where(CLICK == 1, RANDOM.normal(size=32), FIRST)
    assert "different where click is 1, equal elsewhere" in evidence(other, SECOND)


def test_a_gradient_that_is_zero_on_one_side_is_told_without_a_factor() -> None:
    assert "<model>:0 the gradient of the loss is zero in paddle" in evidence(0 * FIRST, SECOND)
    assert explain_module_gradient("out", FIRST, 0 * FIRST) == []


def test_gradients_that_all_agree_leave_what_does_not_depend_on_the_outputs() -> None:
    assert "does not depend on the model's outputs" in evidence(FIRST, SECOND)


def test_gradients_that_differ_anyhow_tell_nothing() -> None:
    found = compare_output_gradients(
        gradients(FIRST, SECOND), gradients(RANDOM.normal(size=32), RANDOM.normal(size=(32, 5))), BATCH
    )
    assert found is not None and not found.tells and "different (relative" in found.evidence
    assert compare_output_gradients({"<model>": FIRST}, {"<model>": FIRST}, BATCH) is None


def test_unrelated_gradients_are_never_in_proportion() -> None:
    for _ in range(20):
        ours, theirs = RANDOM.normal(size=(2, 16, 3)).astype(np.float32)
        assert proportion(ours, theirs, BATCH).kind == "other"


def test_rows_of_one_number_or_of_one_direction_are_no_factors_of_rows() -> None:
    shown = RANDOM.random(size=(4, 6, 5, 5)) < 0.7
    pooled = [shown * RANDOM.normal(size=(4, 6, 1, 1)) for _ in range(2)]
    assert explain_module_gradient("bn", *pooled) == []
    single = [np.outer(RANDOM.normal(size=8), np.arange(1.0, 7.0)) for _ in range(2)]
    assert explain_module_gradient("fc", *single) == []


def test_a_loss_without_a_common_formula_is_told_by_its_gradients() -> None:
    torch = {"<model>:0": SECOND[:, 0], "<model>:1": SECOND, **gradients(FIRST, SECOND)}
    paddle = {**torch, "<model>:0@grad": FIRST * np.where(CLICK == 1, 3, 1).astype(np.float32)}
    site = LossSite(torch, paddle, BATCH, (np.array(3.1349194, np.float32), np.array(6.0631585, np.float32)))
    (cause,) = explain_loss_formula(site)
    assert cause.code == "loss_function" and cause.confidence == 0.7 and "from <model>:0:" in cause.fix
    assert "<model>:0 the gradient of the loss is 3 x torch's where click is 1, equal elsewhere" in cause.evidence
    assert softmax_clipping(site) is None


def test_the_first_gradient_back_from_the_loss_may_be_a_factor_of_torchs() -> None:
    ours = RANDOM.normal(size=(4, 20, 8)).astype(np.float32)
    lengths = np.array([20, 18, 15, 12], np.float32)[:, None, None]
    (cause,) = explain_module_gradient("out", ours, noisy(ours / lengths))
    assert cause.code == "row_scale" and "one over 12, 15, 18, 20" in cause.evidence and "output of out" in cause.fix
    (cause,) = explain_module_gradient("out", ours, noisy(0.25 * ours))
    assert cause.code == "gradient_scale" and "is 1 / 4 x torch's" in cause.evidence
    assert explain_module_gradient("out", ours, noisy(ours[::-1])) == []
    assert explain_module_gradient("out", ours, np.full_like(ours, np.nan)) == []
