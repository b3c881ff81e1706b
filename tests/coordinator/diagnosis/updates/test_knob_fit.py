"""Which value of a hyper-parameter fits paddle's updates; records that a rule takes alike are predicted at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.updates.knob_fit import (
    _residuals,
    _sample,
    _spread,
    is_unchanged,
    objective,
    sampled,
    solve,
    solve_pair,
)
from stepalign.coordinator.diagnosis.updates.optimizer_candidates import Knob, knobs
from stepalign.coordinator.diagnosis.updates.optimizer_case import Case, few
from stepalign.coordinator.diagnosis.updates.update_trace import ParameterTrace, UpdateRecord

from .simulated_port import Port, simulate


def cases_of(port: Port) -> list[Case]:
    """Return every parameter's case, one of them cut to a single element."""

    def cut(trace: ParameterTrace) -> ParameterTrace:
        records = tuple(
            replace(
                record,
                before=record.before[:1],
                gradient=None if record.gradient is None else record.gradient[:1],
                after=record.after[:1],
                state_before={slot: value[:1] if value.ndim else value for slot, value in record.state_before.items()},
                state_after={slot: value[:1] if value.ndim else value for slot, value in record.state_after.items()},
            )
            for record in trace.paddle
        )
        return replace(trace, paddle=records)

    traces = [cut(trace) if trace.torch_name == "norm.bias" else trace for trace in simulate(port)]
    hyper = port.hyper()
    return [Case(trace, port.rule, hyper[trace.torch_name], trace.paddle) for trace in traces]


PORTS = [
    Port("AdamW", {"weight_decay": 0.01}, {"weight_decay": 0.0}, torch_own={"norm.bias": {"weight_decay": 0.0}}),
    Port("NAdam", {}, {"beta1": 0.85}, steps=6),
    Port("SGD", {"momentum": 0.9}, {"momentum": 0.95}, lr=0.1),
    Port("Rprop", {}, {}, lr=0.01),
    Port("ASGD", {}, {}, dtype="float64"),
]


@pytest.mark.parametrize("port", PORTS, ids=lambda port: port.rule)
@pytest.mark.parametrize("change", [{}, {"weight_decay": 0.05}, {"beta1": 0.5, "momentum": 0.5}, {"maximize": True}])
def test_joined_records_give_the_residuals_of_each_by_itself(port: Port, change: dict[str, Any]) -> None:
    def changed(case: Case) -> Case:
        return replace(case, hyper={**case.hyper, **change})

    cases = cases_of(port)
    samples = sampled(cases)
    alone = [_sample(case, record) for case in few(cases) for record in _spread(case.records)]
    assert len(samples.joined) < len(alone)
    parts = [_residuals(sampled([replace(sample.case, records=(sample.record,))]), changed) for sample in alone]
    assert samples.order.size == sum(part.size for part in parts)
    assert _residuals(samples, changed).tobytes() == np.concatenate(parts).tobytes()


def test_records_of_other_hyper_parameters_rates_or_counts_are_kept_apart() -> None:
    cases = cases_of(PORTS[0])
    sizes = [sample.record.before.size for sample in sampled(cases).joined]
    assert len(sizes) == 2 * 3 and sum(sizes) == 3 * sum(case.records[0].before.size for case in few(cases))
    slower = [replace(case, records=tuple(replace(record, lr=0.5) for record in case.records)) for case in cases[:1]]
    assert len(sampled([*slower, *cases[1:]]).joined) == 3 * 3


def test_records_of_other_steps_are_kept_apart_whether_their_state_counts_them_or_not() -> None:
    def without_count(case: Case) -> Case:
        def drop(state: Any) -> Any:
            return {slot: value for slot, value in state.items() if slot != "step"}

        records = (replace(r, state_before=drop(r.state_before), state_after=drop(r.state_after)) for r in case.records)
        return replace(case, records=tuple(records))

    cases = [case for case in cases_of(Port("Adam", {}, {})) if case.name != "norm.bias"]  # one element: a number itself
    assert len(sampled([without_count(case) for case in cases]).joined) == 3
    ahead = tuple(replace(r, state_before={**r.state_before, "step": np.float32(r.step + 7)}) for r in cases[0].records)
    assert len(sampled(cases).joined) == 3
    assert len(sampled([replace(cases[0], records=ahead), *cases[1:]]).joined) == 2 * 3


def test_records_of_other_slots_or_dtypes_are_kept_apart() -> None:
    cases = [case for case in cases_of(Port("Adam", {}, {})) if case.name != "norm.bias"]
    first = cases[0]
    fewer = (
        replace(r, state_before={k: v for k, v in r.state_before.items() if k != "moment2"}) for r in first.records[1:]
    )
    wider = (
        replace(r, state_before={k: v.astype(np.float64) if v.ndim else v for k, v in r.state_before.items()})
        for r in first.records[1:]
    )
    for records in (fewer, wider):
        assert len(sampled([replace(first, records=(first.records[0], *records)), *cases[1:]]).joined) == 3 + 2


def knob(name: str, port: Port) -> Knob:
    return next(found for found in knobs(port.rule, port.torch, [0.01]) if found.name == name)


@pytest.mark.parametrize(
    ("port", "name", "value"),
    [
        (Port("AdamW", {"weight_decay": 0.01}, {"weight_decay": 0.0}), "weight_decay", 0.0),
        (Port("AdamW", {"weight_decay": 0.01}, {"weight_decay": 0.0137}), "weight_decay", 0.0137),
        (Port("SGD", {}, {"weight_decay": -0.02}, lr=0.1), "weight_decay", -0.02),
        (Port("Adam", {}, {"beta2": 0.99}), "beta2", 1.0 - 0.01),
        (Port("Adam", {}, {"beta1": 0.873}), "beta1", 1.0 - 0.127),
        (Port("Adam", {}, {"beta2": 0.99985}), "beta2", 1.0 - 1.5e-4),
        (Port("Adam", {}, {"beta1": 0.0}), "beta1", 0.0),
        (Port("Adam", {}, {"eps": 3e-8}, dtype="float64"), "eps", 3e-8),
        (Port("AdamW", {}, {"_rate": 0.37}), "_rate", 0.37),
        (Port("SGD", {"momentum": 0.9}, {"momentum": 0.95}, lr=0.1), "momentum", 0.95),
        (Port("SGD", {}, {"gradient_scale": -1.0}, lr=0.1), "gradient_scale", -1.0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_value_that_fits_is_found_as_it_was_written(port: Port, name: str, value: float) -> None:
    assert solve(knob(name, port), cases_of(port)) == pytest.approx(value, rel=1e-14, abs=0.0)


def test_a_value_with_more_digits_than_anybody_writes_is_found_as_it_is() -> None:
    port = Port("SGD", {}, {"gradient_scale": 0.123456789}, lr=0.1, dtype="float64")
    assert solve(knob("gradient_scale", port), cases_of(port)) == pytest.approx(0.123456789, rel=1e-7)


def test_a_value_is_found_though_another_mistake_spoils_some_parameters() -> None:
    port = Port("Adam", {}, {"beta2": 0.99}, own={"fc.weight": {"beta2": 0.99, "_rate": 3.0}})
    assert solve(knob("beta2", port), cases_of(port)) == pytest.approx(0.99, rel=1e-12)


def test_the_value_of_most_is_found_and_not_one_between_it_and_that_of_the_others() -> None:
    port = Port("AdamW", {"weight_decay": 0.01}, {"weight_decay": 0.0137}, own={"fc.weight": {"weight_decay": 0.3}})
    assert solve(knob("weight_decay", port), cases_of(port)) == pytest.approx(0.0137, rel=1e-12)


def test_a_value_is_a_round_one_where_another_mistake_spoils_every_parameter() -> None:
    port = Port("Adam", {}, {"beta2": 0.99, "weight_decay": 1e-4})
    assert solve(knob("beta2", port), cases_of(port)) == pytest.approx(0.99, rel=1e-12)


@pytest.mark.parametrize("name", ["weight_decay", "beta1", "eps", "_rate"])
def test_no_value_is_given_where_torchs_own_fits(name: str) -> None:
    port = Port("AdamW", {}, {})
    value = solve(knob(name, port), cases_of(port))
    assert value is None or is_unchanged(knob(name, port), value, cases_of(port))


def test_no_value_is_given_where_none_fits_better_than_torchs_own() -> None:
    port = Port("SGD", {"momentum": 0.9}, {"momentum": 0.9}, lr=0.1)
    spoiled = [
        replace(case, records=tuple(replace(record, after=record.before + np.float32(1.0)) for record in case.records))
        for case in cases_of(port)
    ]
    assert solve(knob("momentum", port), spoiled) is None


def test_two_values_in_one_velocity_are_found_together_and_nothing_where_two_do_not_do() -> None:
    port = Port("SGD", {"momentum": 0.9}, {"momentum": 0.95, "weight_decay": 0.003}, lr=0.1, dtype="float64")
    decay, momentum, dampening = (knob(name, port) for name in ("weight_decay", "momentum", "dampening"))
    for pair, expected in (((decay, momentum), (0.003, 0.95)), ((momentum, decay), (0.95, 0.003))):
        assert any(found == pytest.approx(expected, rel=1e-12) for found in solve_pair(*pair, cases_of(port)))
    assert list(solve_pair(momentum, dampening, cases_of(port))) == []


def test_a_value_is_torchs_own_but_for_what_float32_makes_of_it_and_only_if_it_is_every_parameters() -> None:
    port = Port("Adam", {}, {}, torch_own={"fc.bias": {"beta2": 0.99}})
    cases = [case for case in cases_of(port) if case.name != "fc.bias"]
    beta2, eps = knob("beta2", port), knob("eps", port)
    assert is_unchanged(beta2, float(np.float32(0.999)), cases)
    assert not is_unchanged(beta2, 0.99905, cases)
    assert not is_unchanged(beta2, 0.999, cases_of(port)) and not is_unchanged(beta2, 0.99, cases_of(port))
    assert is_unchanged(eps, float(np.float32(1e-8)), cases) and not is_unchanged(eps, 1.01e-8, cases)
    inside = [replace(case, hyper={**case.hyper, "eps": 1e-8, "eps_inside_sqrt": 1e-16}) for case in cases]
    assert is_unchanged(eps, 1e-16, inside) and not is_unchanged(eps, 1e-8, inside)
    assert not is_unchanged(beta2, 1e-16, inside)


def test_the_objective_is_that_of_the_changed_cases_where_they_are_given() -> None:
    port = Port("AdamW", {"weight_decay": 0.01}, {"weight_decay": 0.0})
    cases = cases_of(port)
    samples = sampled(cases)
    right = [replace(case, hyper={**case.hyper, "weight_decay": 0.0}) for case in cases]
    none, all_ = objective(samples, None), objective(samples, right)
    assert all_ < 0.3 < none
    assert objective(sampled(right), None) == pytest.approx(all_, rel=0.05)


def test_what_a_rule_does_not_give_fits_worse_than_any_number() -> None:
    samples = sampled(cases_of(Port("Adam", {}, {})))
    sizes = [sample.record.before.size for sample in samples.joined]
    other = _residuals(samples, lambda case: replace(case, rule="SGD"))
    assert np.count_nonzero(other == 1e30) == 2 * sum(sizes)  # both moments
    endless = _residuals(samples, lambda case: replace(case, hyper={**case.hyper, "_rate": float("inf")}))
    assert np.count_nonzero(endless == 1e30) == sum(sizes) and np.isfinite(endless).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_stays_zero_fits(dtype: str) -> None:
    def zeros(state: Any) -> Any:
        return {slot: np.zeros_like(value) if value.ndim else value for slot, value in state.items()}

    def still(record: UpdateRecord) -> UpdateRecord:
        zero = np.zeros_like(record.before)
        state = {"state_before": zeros(record.state_before), "state_after": zeros(record.state_after)}
        return replace(record, before=zero, after=zero, gradient=zero, **state)

    cases = cases_of(Port("Adam", {}, {}, dtype=dtype))
    cases = [replace(case, records=tuple(still(record) for record in case.records)) for case in cases]
    assert not _residuals(sampled(cases), lambda case: case).any()
