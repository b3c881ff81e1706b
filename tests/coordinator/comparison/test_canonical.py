"""Arrays under canonical names: turned when they are read, pages given back, and the same judgements either way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.cases.case import WeightsSection
from stepalign.coordinator.comparison import canonical
from stepalign.coordinator.comparison.canonical import Pieces
from stepalign.coordinator.comparison.comparison import StepJudgement
from stepalign.coordinator.comparison.judge import StepJudge
from stepalign.coordinator.comparison.tolerances import tolerances
from stepalign.coordinator.sessions.naming import match_names
from stepalign.coordinator.sessions.step_plan import StepPair
from stepalign.protocol.messages import StepResult
from stepalign.protocol.specs import Declaration, GroupSpec, OptimizerSpec, TensorSpec

RATE = 0.125


def declare(layout: str) -> Declaration:
    shape = (40, 30) if layout == "out_in" else (30, 40)
    tensors = (
        TensorSpec("a.weight", "parameter", shape, "float32", True, "a", "Linear", "weight", layout),
        TensorSpec("b.weight", "parameter", shape, "float32", True, "b", "Linear", "weight", layout),
        TensorSpec("a.bias", "parameter", (40,), "float32", True, "a", "Linear", "bias"),
    )
    group = GroupSpec(tuple(spec.name for spec in tensors), {"lr": RATE, "momentum": 0.0, "weight_decay": 0.0})
    return Declaration(tensors, (), OptimizerSpec("SGD", "SGD", (group,)), None, None, False)


def train(steps: int) -> tuple[list[dict[str, np.ndarray]], list[StepPair]]:
    """Return both sides' initial weights and the steps of plain SGD; in the last, one element of paddle's is wrong."""
    random = np.random.default_rng(0)
    weights = {spec.name: random.standard_normal(spec.shape).astype(np.float32) for spec in declare("out_in").tensors}
    sides = [weights, {name: np.ascontiguousarray(array.T) for name, array in weights.items()}]
    initial, pairs = [dict(side) for side in sides], []
    for step in range(steps):
        gradient = {name: random.standard_normal(array.shape).astype(np.float32) for name, array in weights.items()}
        results = []
        for number, side in enumerate(sides):
            own = {name: np.ascontiguousarray(array.T if number else array) for name, array in gradient.items()}
            for name, array in own.items():
                side[name] = side[name] - np.float32(RATE) * array
            if number and step == steps - 1:
                side["b.weight"][3, 4] += 0.01
            tensors = {"gradient": own, "parameter": dict(side), "optimizer_state": {}, "buffer": {}}
            results.append(StepResult(step, [RATE], np.asarray(1.0, np.float32), "d", tensors, (), 0.0))
        pairs.append(StepPair(step, results[0], results[1], "d"))
    return initial, pairs


def judge(pairs: list[StepPair], initial: list[dict[str, np.ndarray]], **options: Any) -> list[StepJudgement]:
    torch, paddle = declare("out_in"), declare("in_out")
    names = match_names(torch.tensors, paddle.tensors, WeightsSection())
    judging = StepJudge(names, torch, paddle, "float32", tolerances("float32", {}), **options)
    judging.begin(*initial)
    return [judging.judge(pair) for pair in pairs]


def test_judgements_do_not_depend_on_what_is_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    initial, pairs = train(4)
    whole = judge(pairs, initial)
    failure = whole[-1].first_failure()
    assert failure is not None and (failure.kind, failure.name) == ("parameter", "b.weight")
    assert all(judgement.first_failure() is None for judgement in whole[:-1])
    monkeypatch.setattr(canonical, "RESIDENT_SIZE_BYTES", 1000)
    given_back: list[None] = []
    assert judge(pairs, initial, give_pages_back=lambda: given_back.append(None)) == whole
    assert len(given_back) > 10


def test_pages_stay_while_a_step_is_small() -> None:
    initial, pairs = train(2)
    judge(pairs, initial, give_pages_back=lambda: pytest.fail("pages were given back"))


def test_a_kind_that_a_step_did_not_collect_is_forgotten() -> None:
    initial, pairs = train(3)
    pairs[1] = replace(
        pairs[1],
        reference=replace(pairs[1].reference, tensors={}),
        candidate=replace(pairs[1].candidate, tensors={}),
    )
    kinds = [[item.kind for item in judgement.comparisons] for judgement in judge(pairs, initial)]
    assert "parameter" in kinds[0] and "parameter" not in kinds[1] and "parameter" in kinds[2]


def thin(pairs: list[StepPair]) -> None:
    """Leave nothing of steps 1 and 2, and of step 3 the state that step 4 starts from."""
    for step, kept in ((1, ()), (2, ()), (3, ("parameter", "optimizer_state", "buffer"))):
        sides = [
            replace(side, tensors={kind: side.tensors[kind] for kind in kept})
            for side in (pairs[step].reference, pairs[step].candidate)
        ]
        pairs[step] = replace(pairs[step], reference=sides[0], candidate=sides[1])


@pytest.mark.parametrize("kind", ["parameter", "optimizer_state"])
@pytest.mark.parametrize(("factor", "passes"), [(1.0 + 1e-5, True), (1.05, False)])
def test_state_after_steps_without_any_is_compared_by_value_as_widely_as_rounding_needs(
    kind: str, factor: float, passes: bool
) -> None:
    initial, pairs = train(5)
    thin(pairs)
    torch, paddle = pairs[3].reference.tensors, pairs[3].candidate.tensors
    moment = np.arange(1200, dtype=np.float32).reshape(40, 30)
    torch["optimizer_state"] = {"a.weight/moment1": moment}
    paddle["optimizer_state"] = {"a.weight/moment1": np.ascontiguousarray(moment.T)}
    name = "a.weight" if kind == "parameter" else "a.weight/moment1"
    paddle[kind][name] = paddle[kind][name] * np.float32(factor)
    failure = judge(pairs, initial)[3].first_failure()
    if passes:
        assert failure is None
    else:
        assert failure is not None and (failure.kind, failure.name, failure.exact) == (kind, name, False)


@pytest.mark.parametrize(("noise", "compared"), [(1e-9, False), (1e-3, True)])
def test_what_only_noise_moved_is_not_compared_after_steps_without_any(noise: float, compared: bool) -> None:
    initial, pairs = train(5)
    thin(pairs)
    for side, sign in ((pairs[3].reference, 1.0), (pairs[3].candidate, -1.0)):
        large, small = np.ones(1200, np.float32), np.full(40, sign * noise, np.float32)
        shape = side.tensors["parameter"]["a.weight"].shape
        side.tensors["optimizer_state"] = {"a.weight/moment1": large.reshape(shape), "a.bias/moment1": small}
    named = {item.name for item in judge(pairs, initial)[3].comparisons if not item.passed}
    assert named == ({"a.bias/moment1"} if compared else set())


@pytest.mark.parametrize(
    ("slot", "size", "compared"), [("moment1", 1e-9, False), ("moment2", 1e-9, True), ("moment2", 1e-13, False)]
)
def test_noise_in_a_mean_of_squares_is_the_square_of_what_it_is_in_a_mean(slot: str, size: float, compared: bool) -> None:
    initial, pairs = train(5)
    thin(pairs)
    for side, part in ((pairs[3].reference, 1.0), (pairs[3].candidate, 0.5)):
        shape = side.tensors["parameter"]["a.weight"].shape
        side.tensors["optimizer_state"] = {
            f"a.weight/{slot}": np.ones(shape, np.float32), f"a.bias/{slot}": np.full(40, part * size, np.float32)
        }  # fmt: skip
    assert [item.name for item in judge(pairs, initial)[3].comparisons if item.name.startswith("a.bias/")] == (
        [f"a.bias/{slot}"] if compared else []
    )


def test_what_is_noise_on_one_side_alone_is_compared_after_steps_without_any() -> None:
    initial, pairs = train(5)
    thin(pairs)
    for side, size in ((pairs[3].reference, 1e-9), (pairs[3].candidate, 0.5)):
        shape = side.tensors["parameter"]["a.weight"].shape
        state = {"a.weight/moment1": np.ones(shape, np.float32), "a.bias/moment1": np.full(40, size, np.float32)}
        side.tensors["optimizer_state"] = state
    assert [item.name for item in judge(pairs, initial)[3].comparisons if not item.passed] == ["a.bias/moment1"]


def test_a_parameter_that_one_side_lacks_after_steps_without_any_fails() -> None:
    initial, pairs = train(5)
    thin(pairs)
    del pairs[3].candidate.tensors["parameter"]["a.bias"]
    assert [item.name for item in judge(pairs, initial)[3].comparisons if not item.passed] == ["a.bias"]


@pytest.mark.parametrize(("moved", "passes"), [(1e-8, True), (1e-4, False)])
def test_a_parameter_that_was_zero_may_hold_noise_beside_the_models_others(moved: float, passes: bool) -> None:
    initial, pairs = train(5)
    thin(pairs)
    pairs[3].reference.tensors["parameter"]["a.bias"] = np.zeros(40, np.float32)
    pairs[3].candidate.tensors["parameter"]["a.bias"] = np.full(40, moved, np.float32)
    assert (judge(pairs, initial)[3].first_failure() is None) == passes


def test_state_that_comes_alone_is_what_the_next_update_starts_from() -> None:
    initial, pairs = train(5)
    thin(pairs)
    judgements = judge(pairs, initial)
    assert [sum(item.kind == "parameter" for item in judgement.comparisons) for judgement in judgements] == [3, 0, 0, 3, 3]
    failure = judgements[4].first_failure()
    assert failure is not None and failure.name == "b.weight" and "departs from torch's rule" in failure.reason
    assert all(judgement.first_failure() is None for judgement in judgements[:4])


def test_what_a_judge_remembers_is_not_turned_for_it() -> None:
    initial, pairs = train(2)
    torch, paddle = declare("out_in"), declare("in_out")
    names = match_names(torch.tensors, paddle.tensors, WeightsSection())
    judging = StepJudge(names, torch, paddle, "float32", tolerances("float32", {}))
    judging.begin(*initial)
    judging.judge(pairs[0])
    held = judging.memory().before[1]["a.weight"]
    assert np.shares_memory(held, pairs[0].candidate.tensors["parameter"]["a.weight"]) and held.shape == (40, 30)


def test_a_matrix_that_is_stored_transposed_is_turned_when_it_is_read_and_the_latest_kept() -> None:
    arrays = {name: np.arange(6.0).reshape(2, 3).T for name in ("a", "b")}
    pieces = Pieces(arrays)
    assert pieces["a"].flags.c_contiguous and np.array_equal(pieces["a"], arrays["a"])
    first = pieces["a"]
    assert pieces["a"] is first
    assert np.array_equal(pieces["b"], arrays["b"])
    assert pieces["a"] is not first
    assert pieces.stored("a") is arrays["a"] and pieces.stored("c") is None
