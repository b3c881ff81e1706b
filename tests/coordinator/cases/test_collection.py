"""What each step is asked to collect: everything within the budget, else the steps that say most, and the rule in
words.
"""

from __future__ import annotations

from typing import Any

import pytest

from stepalign.coordinator.cases.collection import plan_collection, step_size_bytes
from stepalign.coordinator.cases.loading import load_case
from stepalign.protocol.specs import Declaration, OptimizerSpec, TensorSpec

ALL = ("gradient", "optimizer_state", "parameter", "buffer")


def declaration(parameters: int, buffers: int = 0, dtype: str = "float32") -> Declaration:
    def spec(name: str, kind: str, length: int) -> TensorSpec:
        return TensorSpec(name, kind, (length,), dtype, True, "", "", name)

    specs = (spec("w", "parameter", parameters), spec("b", "buffer", buffers), spec("empty", "parameter", 0))
    return Declaration(specs, (), OptimizerSpec("SGD", "SGD", ()), None, None, False)


def plan(make_case: Any, parameters: int, tables: str = "", steps: int = 10) -> Any:
    return plan_collection(load_case(make_case(f"steps = {steps}", tables=tables)), declaration(parameters))


@pytest.mark.parametrize(
    ("kinds", "size_bytes"),
    [((), 0), (("gradient",), 400), (("parameter",), 400), (("optimizer_state",), 800), (("buffer",), 40), (ALL, 1640)],
)
def test_a_steps_size_is_the_sum_of_its_kinds(kinds: tuple[str, ...], size_bytes: int) -> None:
    assert step_size_bytes(declaration(100, 10), kinds) == size_bytes


@pytest.mark.parametrize(("dtype", "item_size_bytes"), [("float64", 8), ("float32", 4), ("float16", 2), ("int64", 8)])
def test_a_steps_size_depends_on_the_dtype(dtype: str, item_size_bytes: int) -> None:
    assert step_size_bytes(declaration(100, 0, dtype), ("parameter",)) == 100 * item_size_bytes


def test_a_small_model_is_collected_whole_at_every_step(make_case: Any) -> None:
    kinds, rule = plan(make_case, 1000)
    assert all(set(ALL) <= set(kinds(step)) for step in range(10))
    assert "every step" in rule and "optimizer state" in rule


def test_used_gradients_come_with_gradients_only(make_case: Any) -> None:
    kinds, _ = plan(make_case, 1000)
    assert "used_gradient" in kinds(0)
    kinds, rule = plan(make_case, 1000, "[collect]\nkinds = []")
    assert kinds(0) == () and rule.startswith("rates and losses only")


def test_a_model_beyond_the_budget_is_collected_at_the_first_steps_and_the_last_and_the_rule_says_so(
    make_case: Any,
) -> None:
    kinds, rule = plan(make_case, 1 << 20, "[collect]\nbudget_mib = 8")
    assert ["gradient" in kinds(step) for step in range(10)] == [True] * 3 + [False] * 6 + [True]
    assert [kinds(step) for step in range(3, 8)] == [()] * 5
    assert set(kinds(8)) == {"optimizer_state", "parameter", "buffer"}, "what the last update starts from"
    assert "steps 0, 1, 2, 9 only" in rule and "16 MiB a side" in rule and "budget_mib = 8" in rule


def test_the_budget_is_met_exactly(make_case: Any) -> None:
    tables = '[collect]\nkinds = ["parameter"]\nbudget_mib = 4'
    assert "every step" in plan(make_case, 1 << 20, tables)[1]
    assert "only" in plan(make_case, (1 << 20) + 1, tables)[1]


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_short_runs_name_only_steps_that_there_are(make_case: Any, steps: int) -> None:
    kinds, rule = plan(make_case, 1 << 20, "[collect]\nbudget_mib = 1", steps)
    assert all(kinds(step) for step in range(min(steps, 3)))
    named = rule.partition("at steps ")[2].partition(" only")[0]
    assert [int(step) for step in named.split(", ")] == list(range(steps))


def test_resynchronising_collects_the_state_that_it_carries(make_case: Any) -> None:
    kinds, _ = plan(make_case, 1 << 20, "[collect]\nbudget_mib = 1\n[compare]\nresync = 2")
    state = {"parameter", "optimizer_state", "buffer"}
    assert [state <= set(kinds(step)) for step in range(3, 8)] == [True, False, True, False, True]
    assert all(len(kinds(step)) == len(set(kinds(step))) for step in range(10))
