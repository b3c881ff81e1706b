"""What each step is asked to collect: everything within the budget, else the steps that say most, and the rule in
words.
"""

from __future__ import annotations

from typing import Any

import pytest

from stepalign.coordinator.cases.collection import Collection, plan_collection, step_size_bytes
from stepalign.coordinator.cases.loading import load_case
from stepalign.protocol.specs import Declaration, OptimizerSpec, TensorSpec

ALL = ("gradient", "optimizer_state", "parameter", "buffer")


def declaration(parameters: int, buffers: int = 0, dtype: str = "float32") -> Declaration:
    def spec(name: str, kind: str, length: int) -> TensorSpec:
        return TensorSpec(name, kind, (length,), dtype, True, "", "", name)

    specs = (spec("w", "parameter", parameters), spec("b", "buffer", buffers), spec("empty", "parameter", 0))
    return Declaration(specs, (), OptimizerSpec("SGD", "SGD", ()), None, None, False)


def plan(make_case: Any, parameters: int, tables: str = "", steps: int = 10) -> Any:
    collection, rule = plan_collection(load_case(make_case(f"steps = {steps}", tables=tables)), declaration(parameters))
    return collection.kinds, rule


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


def test_a_model_beyond_the_budget_is_collected_at_the_first_steps_some_on_the_way_and_the_last_and_the_rule_says_so(
    make_case: Any,
) -> None:
    kinds, rule = plan(make_case, 1 << 20, "[collect]\nbudget_mib = 16", 50)
    assert [step for step in range(50) if "gradient" in kinds(step)] == [0, 1, 2, 20, 40, 49]
    before = [step for step in range(50) if kinds(step) and "gradient" not in kinds(step)]
    assert before == [19, 39, 48], "what the next update starts from"
    assert all(set(kinds(step)) == {"optimizer_state", "parameter", "buffer"} for step in before)
    assert "steps 0 to 2, every 20th and the last" in rule and "16 MiB a side" in rule and "budget_mib = 16" in rule


def test_the_budget_is_what_the_first_steps_come_to_together(make_case: Any) -> None:
    tables = '[collect]\nkinds = ["parameter"]\nbudget_mib = 40'
    kinds, rule = plan(make_case, 1 << 20, tables, 12)
    assert [step for step in range(12) if "parameter" in kinds(step)] == list(range(12)), (
        "ten, the one before the last, the last"
    )
    assert "steps 0 to 9" in rule
    assert "every step" in plan(make_case, 1 << 20, tables, 11)[1]
    assert "steps 0 to 8" in plan(make_case, (1 << 20) + 1, tables, 11)[1]


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_short_runs_are_whole(make_case: Any, steps: int) -> None:
    kinds, rule = plan(make_case, 1 << 20, "[collect]\nbudget_mib = 1", steps)
    assert all("gradient" in kinds(step) for step in range(steps))
    assert "every step" in rule


@pytest.mark.parametrize(
    ("step", "gap"),
    [(0, []), (2, []), (3, [3]), (7, [3, 4, 5, 6, 7]), (20, list(range(3, 20))), (21, [21]), (49, list(range(41, 49)))],
)
def test_the_gap_before_a_step_is_what_was_not_collected_since_the_last_whole_one(step: int, gap: list[int]) -> None:
    collection = Collection(ALL, 50, 3)
    found = collection.gap_before(step)
    assert list(found) == gap
    filled = collection.with_whole(found)
    assert all(filled.is_whole(each) for each in gap)
    assert [each for each in range(50) if filled.is_whole(each) and not collection.is_whole(each)] == gap


def test_resynchronising_collects_the_state_that_it_carries(make_case: Any) -> None:
    kinds, _ = plan(make_case, 1 << 20, "[collect]\nbudget_mib = 1\n[compare]\nresync = 2")
    state = {"parameter", "optimizer_state", "buffer"}
    assert [state <= set(kinds(step)) for step in range(3, 8)] == [True, False, True, False, True]
    assert all(len(kinds(step)) == len(set(kinds(step))) for step in range(10))
