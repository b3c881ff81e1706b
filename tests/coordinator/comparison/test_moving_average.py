"""Tensors that a script moves towards others: the rule fitted on one side, held against the other, and who may be a source."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.cases.case import WeightsSection
from stepalign.coordinator.comparison.average_judge import Around, AverageJudge
from stepalign.coordinator.comparison.comparison import Comparison, compare_values
from stepalign.coordinator.comparison.moving_average import Motion, fit_share, follows, in_order_of_likeness, written
from stepalign.coordinator.results.result import KnownDifference
from stepalign.coordinator.sessions.naming import match_names
from stepalign.protocol.specs import GroupSpec, OptimizerSpec, TensorSpec

Array = Any


def drawn(seed: int, size: int = 40) -> Array:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def averaged(before: Array, source: Array, decay: float, form: str) -> Array:
    """Return the average in float32, as scripts write it."""
    keep, take = np.float32(decay), np.float32(1.0 - decay)
    if form == "lerp":
        return before + take * (source - before)
    return before * keep + source * take


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("ours", ["lerp", "sum"])
@pytest.mark.parametrize("theirs", ["lerp", "sum"])
def test_an_average_of_other_numbers_follows_the_decay_however_it_is_written(decay: float, ours: str, theirs: str) -> None:
    before = drawn(0)
    source = before + np.float32(1e-2) * drawn(1)
    share = fit_share([Motion(before, averaged(before, source, decay, ours), source)])
    assert share is not None and written(1.0 - share.value, share.uncertain) == f"{decay:g}"
    other = source + np.float32(1e-3) * drawn(2)
    assert follows(share, Motion(before, averaged(before, other, decay, theirs), other)) is not None


@pytest.mark.parametrize("wrong", [0.94, 0.951, 0.99])
def test_another_decay_or_one_wrong_element_does_not_follow(wrong: float) -> None:
    before = drawn(0)
    source = before + np.float32(1e-2) * drawn(1)
    share = fit_share([Motion(before, averaged(before, source, 0.95, "sum"), source)])
    assert share is not None
    assert follows(share, Motion(before, averaged(before, source, wrong, "sum"), source)) is None
    after = averaged(before, source, 0.95, "sum")
    after[7] += np.float32(1e-5)
    assert follows(share, Motion(before, after, source)) is None


def test_no_share_fits_a_tensor_that_follows_something_else() -> None:
    before, source = drawn(0), drawn(1)
    assert fit_share([Motion(before, averaged(before, drawn(2), 0.9, "sum"), source)]) is None
    assert fit_share([Motion(before, before + 2 * (source - before), source)]) is None
    still = fit_share([Motion(before, before, source)])
    assert still is not None and still.value == 0.0


def test_tensors_with_the_longest_common_end_are_tried_first() -> None:
    others = ["D.net.0.weight", "G.net.2.weight", "G.net.0.weight", "head.bias"]
    assert set(in_order_of_likeness("E.net.0.weight", others)[:2]) == {"D.net.0.weight", "G.net.0.weight"}
    assert in_order_of_likeness("shadow.Gnet0weight", others)[0] == "G.net.0.weight"


def spec(name: str, kind: str) -> TensorSpec:
    return TensorSpec(name, kind, (40,), "float32", True, name.split(".")[0], "Linear", "bias")


class Sides:
    """A source ``G.b`` that an optimizer holds, and what follows it on both sides, by name."""

    def __init__(self, *others: str, kind: str = "parameter") -> None:
        tensors = [spec("G.b", "parameter"), *(spec(name, kind) for name in others)]
        optimizer = OptimizerSpec("Adam", "Adam", (GroupSpec(("G.b",), {"lr": 1e-3}),))
        self.kind = kind
        self.judge = AverageJudge(match_names(tensors, tensors, WeightsSection()), optimizer, optimizer)
        start = {"G.b": drawn(0), **{name: drawn(1) for name in others}}
        self.before: tuple[dict[str, Array], dict[str, Array]] = (dict(start), dict(start))
        self.after = tuple({**start, "G.b": start["G.b"] + np.float32(1e-2) * drawn(number + 2)} for number in (0, 1))

    def ended(self, passed: frozenset[str], noise: dict[str, str]) -> tuple[list[Comparison], list[KnownDifference]]:
        known: list[KnownDifference] = []
        items = [
            compare_values(0, self.kind, name, name, self.after[0][name], self.after[1][name], 2.5e-7, 1e-9)
            for name in self.after[0]
            if name != "G.b" or self.kind == "parameter"
        ]
        items = [
            Comparison(0, item.kind, item.name, item.name, True) if item.name in passed else item for item in items
        ]
        around = Around(self.before, (self.after[0], self.after[1]))
        return self.judge.judge(around, items, passed, noise, known)[0], known


NOISE = {"G.b": "the gradient of G.b is rounding noise"}


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
@pytest.mark.parametrize("updated", [True, False])
def test_an_average_of_what_only_noise_moves_passes_and_is_known(kind: str, updated: bool) -> None:
    sides = Sides("E.b", kind=kind)
    if not updated:
        sides.before[1]["G.b"] = sides.before[1]["G.b"] + np.float32(1e-3) * drawn(9)
    for before, after in zip(sides.before, sides.after):
        after["E.b"] = averaged(before["E.b"], (after if updated else before)["G.b"], 0.95, "sum")
    items, known = sides.ended(frozenset({"G.b"}), NOISE)
    assert all(item.passed for item in items)
    assert [item.code for item in known] == ["moving_average"]
    assert "0.95 before + 0.05 G.b" in known[0].evidence and "rounding noise" in known[0].evidence


def test_a_wrong_average_of_what_noise_moves_does_not_pass() -> None:
    sides = Sides("E.b")
    for decay, before, after in zip((0.95, 0.99), sides.before, sides.after):
        after["E.b"] = averaged(before["E.b"], after["G.b"], decay, "sum")
    items, known = sides.ended(frozenset({"G.b"}), NOISE)
    assert [item.name for item in items if not item.passed] == ["E.b"] and not known


def test_a_source_that_failed_itself_excuses_nothing_and_neither_do_two_that_follow_each_other() -> None:
    sides = Sides("E.b", "F.b")
    for before, after in zip(sides.before, sides.after):
        after["E.b"] = after["F.b"] = averaged(before["E.b"], after["G.b"], 0.95, "sum")
    items, _ = sides.ended(frozenset(), {})
    assert not any(item.passed for item in items)
    chained, _ = sides.ended(frozenset({"G.b"}), NOISE)
    assert all(item.passed for item in chained)


def test_what_an_optimizer_holds_is_not_excused_as_an_average() -> None:
    sides = Sides("E.b")
    for before, after in zip(sides.before, sides.after):
        after["E.b"] = before["E.b"]
        after["G.b"] = averaged(before["G.b"], before["E.b"] + np.float32(after["G.b"][0]), 0.5, "sum")
    items, _ = sides.ended(frozenset({"E.b"}), {})
    assert [item.name for item in items if not item.passed] == ["G.b"]


def test_what_stays_on_both_sides_passes_whatever_moved_it_before() -> None:
    sides = Sides("E.b")
    sides.before[1]["E.b"] = sides.before[1]["E.b"] + np.float32(1e-3) * drawn(9)
    for before, after in zip(sides.before, sides.after):
        after["E.b"] = before["E.b"]
    assert all(item.passed for item in sides.ended(frozenset({"G.b"}), NOISE)[0])
    sides.after[1]["E.b"] = sides.after[1]["E.b"] + np.float32(1e-5)
    assert not all(item.passed for item in sides.ended(frozenset({"G.b"}), NOISE)[0])
