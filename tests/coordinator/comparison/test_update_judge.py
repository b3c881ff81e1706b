"""Each side's update is held against torch's rule with the side's own inputs, where torch's own numbers follow it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .judged_steps import RATE, SHAPES, Steps, train, with_optimizer

BY_RULE = "departs from torch's rule"


def failed(steps: Steps, **options: Any) -> list[tuple[int, str, str]]:
    """Return step, kind and name of all failures."""
    return [(item.step, item.kind, item.name) for item in steps.failed(**options)]


def nudged(steps: Steps, step: int, name: str, by: float) -> None:
    """Move one element of paddle's parameter after a step."""
    array = steps.of(step, "parameter", name).copy()
    array.reshape(-1)[1] += array.dtype.type(by)
    steps.change(step, "parameter", name, array)


def test_an_update_too_small_to_show_by_value_is_held_against_the_rule_with_its_own_state() -> None:
    steps = train(steps=3)
    weight = steps.of(2, "parameter", "fc.weight")
    nudged(steps, 2, "fc.weight", 4e-6)
    (failure,) = steps.failed()
    assert (failure.step, failure.kind, failure.name, failure.exact) == (2, "parameter", "fc.weight", True)
    assert failure.reason.startswith(f"{BY_RULE}, given its own gradient, by ") and "[0, 1]" in failure.reason
    steps.change(2, "parameter", "fc.weight", weight)
    moment = steps.of(2, "optimizer_state", "fc.weight/moment2")
    steps.change(2, "optimizer_state", "fc.weight/moment2", moment * np.float32(1.00005))
    (failure,) = steps.failed()
    assert (failure.kind, failure.name, failure.exact) == ("optimizer_state", "fc.weight/moment2", True)


@pytest.mark.parametrize("place", [0, 1, 2, 89_998])
def test_a_wrong_element_of_a_large_parameter_is_judged_wherever_it_is(place: int) -> None:
    steps = train("SGD", steps=1, shapes={"w": (300, 300)})
    weight = steps.of(0, "parameter", "w").copy()
    weight.reshape(-1)[place] += np.float32(1e-3)
    steps.change(0, "parameter", "w", weight)
    (failure,) = steps.failed()
    assert failure.exact and failure.reason.startswith(BY_RULE) and str([place // 300, place % 300]) in failure.reason


def test_a_decay_that_moves_no_element_beyond_rounding_shows_on_the_whole() -> None:
    shapes = {"w": (200, 300)}
    steps = train("SGD", {"weight_decay": 2e-5}, {}, steps=1, shapes=shapes, sizes={"w": 1e-3})
    (failure,) = steps.failed()
    assert failure.kind == "parameter" and failure.reason.startswith(f"{BY_RULE} on the whole by ")


def test_where_torch_itself_departs_from_the_rule_sides_are_compared_by_value() -> None:
    steps = train(steps=2)
    steps.torch, steps.paddle = (
        with_optimizer(side, groups=tuple(type(group)(group.parameters, {"beta1": 0.5}) for group in side.optimizer.groups))
        for side in (steps.torch, steps.paddle)
    )
    assert steps.failed() == []
    nudged(steps, 1, "fc.weight", 0.1 * RATE)
    assert failed(steps) == [(1, "parameter", "fc.weight")] and not steps.failed()[0].exact


def test_what_holds_for_one_parameter_stands_over_its_groups_hyperparameters() -> None:
    steps = train(steps=2, torch={"weight_decay": 0.5}, own={"fc.bias": {"weight_decay": 0.0}})
    assert failed(steps) == [(0, "parameter", "fc.bias"), (1, "parameter", "fc.bias")]
    plain = train(steps=2, torch={"weight_decay": 0.0})
    for number, pair in enumerate(steps.pairs):
        for kind in ("gradient", "parameter", "optimizer_state"):
            for name, array in plain.pairs[number].reference.tensors[kind].items():
                if name.startswith("fc.bias"):
                    pair.reference.tensors[kind][name] = array
    steps.torch = with_optimizer(steps.torch, effective={"fc.bias": {"weight_decay": 0.0}})
    assert steps.failed() == []
    assert all(item.exact for item in steps.judge()[1].comparisons if item.name == "fc.bias" and item.kind == "parameter")


def test_a_rate_of_its_own_is_held_against_the_rule_by_itself() -> None:
    steps = train("SGD", rates=(RATE, 2 * RATE), steps=1)
    assert failed(steps) == [(0, "lr", "group 0")]


def test_a_rate_multiplier_that_is_declared_has_to_act() -> None:
    steps = train("SGD", rates=(RATE, 2 * RATE), own={name: {"_rate": RATE} for name in SHAPES}, steps=1)
    steps.paddle = with_optimizer(steps.paddle, effective={name: {"lr_multiplier": 0.5} for name in SHAPES})
    assert steps.failed() == []
    idle = train("SGD", rates=(RATE, 2 * RATE), steps=1)
    idle.paddle = steps.paddle
    assert failed(idle) == [(0, "parameter", name) for name in SHAPES]


def test_a_parameter_that_paddles_optimizer_does_not_hold_is_compared_by_value() -> None:
    steps = train("SGD", steps=1)
    groups = tuple(type(group)(("fc.weight", "out.weight"), group.hyperparameters) for group in steps.paddle.optimizer.groups)
    steps.paddle = with_optimizer(steps.paddle, groups=groups)
    assert steps.failed() == []
    steps.change(0, "parameter", "fc.bias", steps.initial[1]["fc.bias"])
    assert failed(steps) == [(0, "parameter", "fc.bias")]


@pytest.mark.parametrize("torch", [0.0, 1e-2])
@pytest.mark.parametrize("paddle", [0.0, 1e-7, 1e-2])
def test_a_parameter_without_a_gradient_stays_as_it_is(torch: float, paddle: float) -> None:
    steps = train("SGD", steps=1)
    for side, by in (("torch", torch), ("paddle", paddle)):
        steps.change(0, "gradient", "fc.bias", None, side)
        steps.change(0, "parameter", "fc.bias", steps.initial[0]["fc.bias"] * np.float32(1.0 + by), side)
    found = steps.failed()
    if torch == paddle:
        assert found == []
    elif not torch:
        assert [item.reason for item in found] == ["moved on paddle in a step in which it has no gradient; it stays on torch"]
        assert found[0].exact
    else:
        assert [(item.kind, item.exact) for item in found] == [("parameter", False)]


def test_a_gradient_of_another_shape_fails_by_itself() -> None:
    steps = train("SGD", steps=1)
    steps.change(0, "gradient", "fc.bias", np.ones(3, np.float32))
    assert failed(steps) == [(0, "gradient", "fc.bias")]


FLOAT32_BETAS = {name: float(np.float32(value)) for name, value in (("beta1", 0.9), ("beta2", 0.999))}


@pytest.mark.parametrize(("dtype", "listed"), [("float64", 3), ("float32", 0)])
def test_hyperparameters_that_paddle_keeps_in_float32_are_known_in_a_float64_model(dtype: str, listed: int) -> None:
    steps = train("Adam", {"beta1": 0.9, "beta2": 0.999}, FLOAT32_BETAS, dtype=dtype)
    assert steps.failed() == []
    assert steps.known() == {("float32_hyperparameters", name) for name in [*SHAPES][:listed]}


@pytest.mark.parametrize("by", [1e-6, -1e-6])
def test_a_parameter_that_breaks_the_rule_is_not_listed_as_one_whose_hyperparameters_are_float32(by: float) -> None:
    steps = train("SGD", {"momentum": 0.9}, {"momentum": float(np.float32(0.9))}, dtype="float64", steps=2)
    nudged(steps, 1, "fc.bias", by)
    assert failed(steps) == [(1, "parameter", "fc.bias")]
    assert {item.torch_name for item in steps.judge()[1].known} == {"fc.weight", "out.weight"}


PADDLES_RMSPROP = {"eps_inside_sqrt": 1e-6, "lr_in_velocity": True}


def test_paddles_own_form_of_a_rule_is_known_once_for_each_parameter() -> None:
    steps = train("RMSprop", {"eps": 1e-3}, PADDLES_RMSPROP, sizes=dict.fromkeys(SHAPES, 1e-2))
    assert steps.failed() == []
    known = [[item.torch_name for item in judgement.known] for judgement in steps.judge()]
    assert known == [[*SHAPES], [], []]
    assert steps.known() == {("rmsprop_formula", name) for name in SHAPES}


@pytest.mark.parametrize("changes", [{"eps_inside_sqrt": 1e-3}, {"alpha": 0.98}])
def test_paddles_own_form_excuses_no_other_mistake(changes: dict[str, float]) -> None:
    steps = train("RMSprop", {"eps": 1e-3}, {**PADDLES_RMSPROP, **changes}, sizes=dict.fromkeys(SHAPES, 1e-2))
    assert {item.name for item in steps.failed() if item.kind == "parameter"} == {*SHAPES}
    assert steps.known() == set()


def test_paddles_own_form_is_no_excuse_for_another_optimizer() -> None:
    steps = train("RMSprop", {"eps": 1e-3}, PADDLES_RMSPROP, steps=1)
    steps.paddle = with_optimizer(steps.paddle, type="Adagrad")
    assert {item.kind for item in steps.failed()} == {"parameter"} and steps.known() == set()
