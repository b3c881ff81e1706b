"""What the numbers of an optimizer say about a port, over rules, dtypes, rates and both directions of a mistake."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.cause import Cause
from stepalign.coordinator.diagnosis.updates.optimizer_fit import explain_updates, known_update_differences
from stepalign.coordinator.diagnosis.updates.update_trace import ParameterTrace, UpdateRecord

from ...comparison.trajectories import Data, step_optimizers, updates
from .simulated_port import PARAMETERS, Port, simulate

SPARED = ("fc.bias", "norm.weight", "norm.bias")
DECAY: dict[str, Any] = {"weight_decay": 0.01}
VELOCITY: dict[str, Any] = {"momentum": 0.9}


def explained(port: Port) -> list[Cause]:
    return explain_updates(simulate(port), port.hyper(), port.rule)


def codes(causes: list[Cause]) -> list[str]:
    return [f"{cause.category.value}/{cause.code}" for cause in causes]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop"])
def test_a_right_port_needs_no_explanation(rule: str, dtype: str) -> None:
    port = Port(rule, DECAY, DECAY, dtype=dtype, steps=6)
    assert explained(port) == []
    assert known_update_differences(simulate(port), port.hyper(), rule) == []


@pytest.mark.parametrize(
    ("port", "code", "says"),
    [
        (Port("AdamW", DECAY, {"weight_decay": 0.0}, lr=3e-5), "weight_decay/no_decay", "torch 0.01"),
        (Port("SGD", {**VELOCITY, "weight_decay": 1e-4}, VELOCITY, lr=0.05), "weight_decay/no_decay", "torch 0.0001"),
        (Port("AdamW", DECAY, {"weight_decay": 0.03}), "weight_decay/decay_value", "0.03"),
        (Port("Adam", {}, {"weight_decay": 0.002}), "weight_decay/decay_added", "0.002"),
        (Port("AdamW", DECAY, {**DECAY, "coupled_weight_decay": 0.05}), "weight_decay/extra_regularizer", "0.05"),
        (Port("SGD", {}, {"l1_decay": 1e-3}, lr=0.1), "weight_decay/l1_decay", "0.001"),
        (Port("AdamW", DECAY, {**DECAY, "decoupled_weight_decay": False}), "optimizer/coupled_decay", "moments"),
        (
            Port("Adam", {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
            "optimizer/decoupled_decay",
            "AdamW",
        ),
        (Port("Adam", {}, {"eps": 1e-7}), "hyperparameter/optimizer_epsilon", "1e-07"),
        (Port("AdamW", {"eps": 1e-6}, {"eps": 3e-8}, dtype="float64"), "hyperparameter/optimizer_epsilon", "3e-08"),
        (Port("Adam", {"beta2": 0.98}, {}), "hyperparameter/beta2", "0.999"),
        (Port("NAdam", {}, {"beta1": 0.85}), "hyperparameter/beta1", "0.85"),
        (Port("RAdam", {}, {"beta2": 0.99}, steps=8), "hyperparameter/beta2", "0.99"),
        (Port("Adamax", {}, {"beta2": 0.99, "eps_on_norm": True}), "hyperparameter/beta2", "0.99"),
        (Port("SGD", VELOCITY, {"momentum": 0.95}, lr=0.1), "hyperparameter/momentum", "0.95"),
        (Port("SGD", {**VELOCITY, "dampening": 0.1}, VELOCITY, lr=0.1), "hyperparameter/dampening", "0.9"),
        (Port("SGD", {**VELOCITY, "nesterov": True}, VELOCITY, lr=0.1), "optimizer/nesterov_missing", "Nesterov"),
        (Port("SGD", VELOCITY, {**VELOCITY, "nesterov": True}, lr=0.1), "optimizer/nesterov_added", "Nesterov"),
        (Port("SGD", VELOCITY, {}, lr=0.1), "optimizer/momentum_missing", "plain SGD"),
        (Port("Adam", {"amsgrad": True}, {}, steps=8), "hyperparameter/amsgrad", "amsgrad=False"),
        (Port("Adam", {}, {"bias_correction": False}), "optimizer/bias_correction", "1 - beta^t"),
        (
            Port("AdamW", {"eps": 1e-6}, {"eps": 1e-6, "eps_before_correction": True}),
            "optimizer/epsilon_placement",
            "before",
        ),
        (Port("Adam", {}, {"correction_offset": 1}), "optimizer/step_count", "t+1"),
        (Port("Adam", {}, {"maximize": True}), "optimizer/maximize", "along the gradient"),
        (Port("Adam", {}, {}, paddle_rule="Adamax"), "optimizer/other_rule", "Adamax"),
        (Port("Adagrad", {}, {"eps": 1e-6}, lr=0.01), "hyperparameter/optimizer_epsilon", "1e-06"),
        (Port("Adadelta", {}, {"rho": 0.95}, lr=1.0), "hyperparameter/smoothing_constant", "0.95"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_named_first_with_its_number(port: Port, code: str, says: str) -> None:
    causes = explained(port)
    assert codes(causes)[:1] == [code], codes(causes)
    assert says in causes[0].evidence
    assert causes[0].confidence >= 0.7
    assert "paddle" in causes[0].fix


@pytest.mark.parametrize(
    ("port", "says"),
    [
        (Port("AdamW", DECAY, {"weight_decay": 0.0137}), "0.0137"),  # biases fit 0.014 too
        (Port("AdamW", {"weight_decay": 0.1}, {"weight_decay": 0.0012}, lr=1e-4), "0.001"),  # and here none at all
    ],
    ids=["rounder", "none"],
)
def test_one_value_is_named_for_all_though_parameters_that_depend_on_it_little_fit_others_too(port: Port, says: str) -> None:
    (cause,) = explained(port)
    assert cause.code == "decay_value" and f"weight decay {says} fits" in cause.evidence
    assert "on all 6 parameters" in cause.evidence


@pytest.mark.parametrize("seed", [1, 2])
def test_decay_on_spared_parameters_is_told_by_their_kind(seed: int) -> None:
    spared = {name: {"weight_decay": 0.0} for name in SPARED}
    (cause,) = explained(Port("AdamW", DECAY, DECAY, torch_own=spared, seed=seed))
    assert cause.code == "decay_on_bias"
    assert "biases and norm parameters" in cause.evidence and "paddle decays by 0.01" in cause.evidence
    assert "apply_decay_param_fun" in cause.fix


def test_decay_missing_on_some_is_not_decay_missing_on_all() -> None:
    (cause,) = explained(Port("AdamW", DECAY, DECAY, own={"emb.weight": {"weight_decay": 0.0}}))
    assert cause.code == "decay_missing"
    assert "1 of 6 parameters (emb.weight)" in cause.evidence


def test_multipliers_of_the_rate_are_told_with_their_parameters() -> None:
    port = Port("AdamW", DECAY, DECAY, own={"emb.weight": {"_rate": 0.1}, "out.weight": {"_rate": 0.1}})
    (cause,) = explained(port)
    assert cause.code == "lr_multiplier"
    assert "0.1 times" in cause.evidence and "emb.weight, out.weight" in cause.evidence


def test_two_mistakes_at_once_are_both_named() -> None:
    causes = explained(Port("AdamW", DECAY, {"weight_decay": 0.0, "beta1": 0.8}))
    assert set(codes(causes)) == {"hyperparameter/beta1", "weight_decay/no_decay"}


def test_two_mistakes_in_one_velocity_are_both_named() -> None:
    ours, theirs = {"momentum": 0.9, "weight_decay": 0.01}, {"momentum": 0.95, "weight_decay": 0.003}
    causes = explained(Port("SGD", ours, theirs, lr=0.1, dtype="float64"))
    assert set(codes(causes)[:2]) == {"hyperparameter/momentum", "weight_decay/decay_value"}


def test_numbers_that_follow_no_rule_are_left_unexplained() -> None:
    traces = simulate(Port("Adam", {}, {}))
    rng = np.random.default_rng(5)
    spoiled = [
        replace(
            trace,
            paddle=tuple(
                replace(record, after=record.before + (1e-3 * rng.normal(size=record.before.shape)).astype(np.float32))
                for record in trace.paddle
            ),
        )
        for trace in traces
    ]
    assert explain_updates(spoiled, {name: {} for name in PARAMETERS}, "Adam") == []


def test_a_rule_that_does_not_fit_torch_itself_says_nothing_about_paddle() -> None:
    port = Port("Adam", {"beta2": 0.9}, {"beta2": 0.99})
    assert explain_updates(simulate(port), {name: {"beta2": 0.999} for name in PARAMETERS}, "Adam") == []


def test_an_unknown_rule_explains_nothing() -> None:
    assert explain_updates(simulate(Port("Adam", {}, {})), {name: {} for name in PARAMETERS}, "Muon") == []


def unmoved(trace: ParameterTrace, **changes: Any) -> ParameterTrace:
    records = tuple(
        replace(record, before=trace.paddle[0].before, after=trace.paddle[0].before) for record in trace.paddle
    )
    return replace(trace, paddle=tuple(replace(record, **changes) for record in records))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"gradient": None, "state_before": {}, "state_after": {}}, "no_gradient"),
        ({"state_before": {}, "state_after": {}}, "not_in_optimizer"),
        ({}, "not_updated"),
    ],
)
def test_a_parameter_that_stays_is_frozen_in_one_of_three_ways(changes: dict[str, Any], code: str) -> None:
    first, *others = simulate(Port("Adam", {}, {}))
    (cause,) = explain_updates([unmoved(first, **changes), *others], {name: {} for name in PARAMETERS}, "Adam")
    assert codes([cause]) == [f"frozen_parameter/{code}"]
    assert "fc.weight" in cause.evidence


def test_a_parameter_that_stays_is_told_though_the_optimizers_rule_is_unknown() -> None:
    first, *others = simulate(Port("Adam", {}, {}))
    (cause,) = explain_updates([unmoved(first), *others], {name: {} for name in PARAMETERS}, "Muon")
    assert cause.code == "not_updated" and "fc.weight" in cause.evidence


@pytest.mark.parametrize("spoil", [lambda array: array[:-1], lambda array: np.full_like(array, np.nan)])
def test_gradients_of_another_shape_or_without_numbers_say_nothing_and_hide_nothing(spoil: Any) -> None:
    first, *others = simulate(Port("AdamW", DECAY, {"weight_decay": 0.05}))
    records = tuple(replace(record, gradient=spoil(record.gradient)) for record in first.paddle)
    (cause,) = explain_updates([replace(first, paddle=records), *others], dict.fromkeys(PARAMETERS, DECAY), "AdamW")
    assert cause.code == "decay_value" and "on all 5 parameters" in cause.evidence


def test_a_mistake_that_some_parameters_cannot_show_is_told_of_them_too() -> None:
    rates = {name: {**DECAY, "_rate": 3.0} for name in ("fc.weight", "emb.weight")}
    (cause, *_) = explained(Port("AdamW", DECAY, DECAY, own=rates))
    assert cause.code == "lr_multiplier" and "it shows on" not in cause.evidence
    (cause,) = explained(Port("AdamW", DECAY, {"weight_decay": 0.0}, lr=3e-5))
    assert cause.code == "no_decay" and "on all 6 parameters; it shows on 4 of them" in cause.evidence
    assert "torch 0.01" in cause.evidence


def still(record: UpdateRecord) -> UpdateRecord:
    return replace(record, gradient=None, after=record.before, state_after={})


def test_a_parameter_that_torch_freezes_and_paddle_moves_is_named() -> None:
    first, *others = simulate(Port("Adam", {}, {}))
    frozen = replace(first, torch=tuple(still(record) for record in first.torch))
    (cause,) = explain_updates([frozen, *others], {name: {} for name in PARAMETERS}, "Adam")
    assert cause.code == "updated_though_frozen"


def test_a_gradient_of_zeros_that_moves_is_told_from_no_gradient() -> None:
    first, *others = simulate(Port("AdamW", DECAY, DECAY))
    torch = (first.torch[0], *(still(record) for record in first.torch[1:]))
    zeros = tuple(replace(record, gradient=np.zeros_like(record.before)) for record in first.paddle[1:])
    (cause,) = explain_updates(
        [replace(first, torch=torch, paddle=(first.paddle[0], *zeros)), *others],
        dict.fromkeys(PARAMETERS, DECAY),
        "AdamW",
    )
    assert codes([cause]) == ["optimizer/zero_gradient_update"]
    assert "set_to_zero=False" in cause.fix


# -- real optimizers --------------------------------------------------------------------------------------------------

STEPS = 4
REAL: dict[str, tuple[str, dict[str, Any], str, dict[str, Any], float, str]] = {
    "no_decay": ("AdamW", DECAY, "AdamW", {"weight_decay": 0.0}, 3e-5, "weight_decay/no_decay"),
    "coupled": ("AdamW", DECAY, "Adam", DECAY, 1e-3, "optimizer/coupled_decay"),
    "beta2": ("AdamW", DECAY, "AdamW", {**DECAY, "beta2": 0.99}, 1e-3, "hyperparameter/beta2"),
    "eps": ("Adam", {}, "Adam", {"epsilon": 1e-7}, 1e-3, "hyperparameter/optimizer_epsilon"),
    "nesterov": ("SGD", {**VELOCITY, "nesterov": True}, "Momentum", VELOCITY, 0.1, "optimizer/nesterov_missing"),
    "momentum": ("SGD", VELOCITY, "Momentum", {"momentum": 0.99}, 0.1, "hyperparameter/momentum"),
    "plain": ("SGD", VELOCITY, "SGD", {}, 0.1, "optimizer/momentum_missing"),
    "rmsprop": ("RMSprop", {}, "RMSProp", {"rho": 0.99, "epsilon": 1e-8}, 1e-3, "hyperparameter/optimizer_epsilon"),
    "rho": ("RMSprop", {}, "RMSProp", {"rho": 0.95, "epsilon": 1e-16}, 1e-3, "hyperparameter/smoothing_constant"),
    "right adamw": ("AdamW", DECAY, "AdamW", DECAY, 1e-3, ""),
    "right rmsprop": ("RMSprop", VELOCITY, "RMSProp", {**VELOCITY, "rho": 0.99, "epsilon": 1e-16}, 1e-3, ""),
    "right adamax": ("Adamax", {}, "Adamax", {}, 1e-3, ""),
    "right momentum": ("SGD", {**VELOCITY, **DECAY}, "Momentum", {**VELOCITY, **DECAY}, 0.1, ""),
}


@pytest.fixture(scope="module", params=["float32", "float64"])
def real(
    request: pytest.FixtureRequest, torch_python: str, paddle_python: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Data, dict[str, dict[str, Data]]]:
    dtype = str(request.param)
    rng, data = np.random.default_rng(8), {}
    for name, (shape, spread, _, _, size) in PARAMETERS.items():
        start = np.ones(shape) if spread is None else rng.normal(size=shape) * spread
        data[f"p/{name}"] = start.astype(dtype)
        data[f"g/{name}"] = (rng.normal(size=(STEPS, *shape)) * size).astype(dtype)
    folder, saved = tmp_path_factory.mktemp("real"), {}
    for side, python, at in (("torch", torch_python, 0), ("paddle", paddle_python, 2)):
        requests = {
            label: {"class": case[at], "arguments": dict(case[at + 1]), "lr": [case[4]] * STEPS}
            for label, case in REAL.items()
        }
        if side == "torch":
            for label, case in REAL.items():
                requests[label]["arguments"]["lr"] = case[4]
        saved[side] = step_optimizers(side, str(python), requests, data, folder)
    return dtype, data, saved


def records_of(saved: Data, data: Data, name: str, lr: float) -> tuple[UpdateRecord, ...]:
    return tuple(
        UpdateRecord(step, lr, before, used, None, _slots(state), after, _slots(later))
        for found, step, before, used, state, after, later in updates(saved, data, STEPS)
        if found == name
    )


def _slots(state: Data) -> Data:
    return {slot: array for slot, array in state.items() if "_pow" not in slot}


@pytest.mark.parametrize("label", list(REAL))
def test_real_optimizers_are_explained_from_their_numbers(
    label: str, real: tuple[str, Data, dict[str, dict[str, Data]]]
) -> None:
    dtype, data, saved = real
    rule, hyper, _, _, lr, code = REAL[label]
    traces = [
        ParameterTrace(
            name,
            name,
            dtype,
            records_of(saved["torch"][label], data, name, lr),
            records_of(saved["paddle"][label], data, name, lr),
            role,
            module_type,
        )
        for name, (_, _, role, module_type, _) in PARAMETERS.items()
    ]
    by_parameter = dict.fromkeys(PARAMETERS, hyper)
    causes = explain_updates(traces, by_parameter, rule)
    assert codes(causes)[:1] == ([code] if code else []), causes
    if label in ("right rmsprop", "right adamax"):
        known = known_update_differences(traces, by_parameter, rule)
        assert {difference.code for difference in known} == {f"{rule.lower()}_formula"}
