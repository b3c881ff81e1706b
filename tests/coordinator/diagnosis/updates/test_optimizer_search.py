"""Which changes are found, for which parameters, and in which order; simulated ports, without the words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from stepalign.coordinator.diagnosis.updates.optimizer_case import FEW_CASES, Case, worst_of
from stepalign.coordinator.diagnosis.updates.optimizer_search import Change, Explanation, _joint, _order, explain

from .simulated_port import PARAMETERS, Port, simulate

DECAY: dict[str, Any] = {"weight_decay": 0.01}


def cases_of(port: Port, *names: str, prefix: str = "") -> list[Case]:
    """Return the cases of some parameters, by default all."""
    hyper = port.hyper()
    return [
        Case(replace(trace, torch_name=f"{prefix}{trace.torch_name}"), port.rule, hyper[trace.torch_name], trace.paddle)
        for trace in simulate(port)
        if trace.torch_name in (names or PARAMETERS)
    ]


def change_of(explanation: Explanation) -> Change:
    (change,) = explanation.changes
    return change


def shown(groups: Sequence[Sequence[Explanation]]) -> list[tuple[tuple[str, ...], list[tuple[str, Any]]]]:
    """Return the best explanation of each group: what it covers, and its changes with their values."""
    return [
        (best.covered, [(change.name, None if change.value is None else round(change.value, 6)) for change in best.changes])
        for best in (group[0] for group in groups)
    ]


def test_parameters_with_mistakes_of_their_own_are_explained_group_by_group_the_largest_first() -> None:
    own = {"emb.weight": {**DECAY, "_rate": 0.1}, "fc.bias": {"weight_decay": 0.0}, "out.weight": {"weight_decay": 0.0}}
    groups = explain(cases_of(Port("AdamW", DECAY, DECAY, own=own), *own), [0.01], depth=1)
    assert shown(groups) == [
        (("fc.bias", "out.weight"), [("weight_decay", 0.0)]),
        (("emb.weight",), [("_rate", 0.1)]),
    ]
    assert all(set(other.covered) == set(group[0].covered) for group in groups for other in group)


def test_what_nothing_explains_is_in_no_group() -> None:
    own = {"emb.weight": {**DECAY, "_rate": 0.1}}
    wrong, *rest = cases_of(Port("AdamW", DECAY, DECAY, own=own), "emb.weight", "fc.weight")[::-1]
    spoiled = replace(rest[0], records=tuple(replace(r, after=r.after + r.before * r.before) for r in rest[0].records))
    assert shown(explain([wrong, spoiled], [0.01], depth=1)) == [(("emb.weight",), [("_rate", 0.1)])]
    assert explain([spoiled], [0.01], depth=1) == []


def test_of_many_parameters_those_with_one_mistake_are_found_among_those_with_another() -> None:
    cases = []
    for seed in range(3):
        undecayed = Port("SGD", DECAY, {"weight_decay": 0.0}, lr=0.1, seed=seed)
        slow = Port("SGD", DECAY, {**DECAY, "_rate": 0.5}, lr=0.1, seed=seed)
        cases += cases_of(undecayed, "fc.weight", "emb.weight", "out.weight", prefix=f"undecayed{seed}.")
        cases += cases_of(slow, "fc.weight", "out.weight", prefix=f"slow{seed}.")
    assert len(cases) > 2 * FEW_CASES
    groups = explain(cases, [0.01], depth=1)
    assert [(len(covered), changes) for covered, changes in shown(groups)] == [
        (9, [("weight_decay", 0.0)]),
        (6, [("_rate", 0.5)]),
    ]


def test_among_changes_that_fit_alike_the_simpler_leads() -> None:
    (group,) = explain(cases_of(Port("SGD", {}, {"maximize": True}, lr=0.1), "fc.weight"), [0.0], depth=1)
    assert [change_of(item).name for item in group[:2]] == ["maximize", "gradient_scale"]
    assert [item.cost for item in group[:2]] == [1.0, 2.6]
    better = replace(group[1], worst=0.0)
    assert sorted((replace(group[0], worst=0.9), better), key=_order)[-1] == better
    assert sorted((group[0], replace(better, covered=("a", "b"))), key=_order)[0].covered == ("a", "b")


def test_the_worst_that_is_left_is_that_of_all_its_parameters() -> None:
    cases = cases_of(Port("AdamW", DECAY, {"weight_decay": 0.0}), "fc.weight", "norm.weight")
    for given in (cases, cases[::-1]):
        ((best, *_),) = explain(given, [0.01], depth=1)
        assert best.worst == max(worst_of(change_of(best).transform(case)) for case in cases) > 0.0


def test_coupled_decay_of_another_value_is_one_change_with_its_number() -> None:
    port = Port("AdamW", DECAY, {"weight_decay": 0.05, "decoupled_weight_decay": False})
    ((best, *_),) = explain(cases_of(port), [0.01], depth=1)
    (change,) = best.changes
    assert (change.name, change.code, change.value) == ("coupling and weight_decay", "coupled_decay", 0.05)
    assert "with weight decay 0.05" in change.evidence and best.cost == 1.0 + 1.5


def test_two_changes_are_each_named_once_with_their_values() -> None:
    port = Port("SGD", {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, **DECAY}, lr=0.1)
    ((best, *others),) = explain(cases_of(port), [0.0], depth=2)
    assert sorted((change.name, change.value) for change in best.changes) == [("nesterov", None), ("weight_decay", 0.01)]
    assert best.cost == 1.0 + 1.5 and best.covered == tuple(PARAMETERS)
    assert all(len({change.name for change in other.changes}) == len(other.changes) for other in (best, *others))


def test_one_change_is_all_that_is_tried_at_depth_one() -> None:
    port = Port("SGD", {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, **DECAY}, lr=0.1)
    assert explain(cases_of(port), [0.0], depth=1) == []


@pytest.mark.parametrize("depth", [2, 3])
def test_two_numbers_that_fit_only_together_are_found_together(depth: int) -> None:
    ours, theirs = {"momentum": 0.9, "weight_decay": 0.01}, {"momentum": 0.95, "weight_decay": 0.003}
    ((best, *_), *_) = explain(cases_of(Port("SGD", ours, theirs, lr=0.1, dtype="float64"), "fc.weight"), [0.01], depth)
    assert {change.name: round(change.value or 0.0, 9) for change in best.changes} == {"weight_decay": 0.003, "momentum": 0.95}


def test_a_number_that_is_torchs_own_is_no_part_of_a_pair() -> None:
    cases = cases_of(Port("AdamW", DECAY, {"weight_decay": 0.0137}))
    found = list(_joint(cases, [0.01]))
    assert found and {item.covered for item in found} == {tuple(PARAMETERS)}
    assert {(change.name, change.value) for item in found for change in item.changes} == {("weight_decay", 0.0137)}
