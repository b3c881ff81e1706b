"""The optimizer rules against both frameworks' real optimizers, and by hand where a number is easy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.comparison.update_residual import judge_update
from stepalign.coordinator.comparison.update_rules import known_rules, predict

from .trajectories import Data, given_gradients, step_optimizers, updates

STEPS = 12
DECAY: dict[str, Any] = {"weight_decay": 0.01}
MOMENTUM: dict[str, Any] = {"momentum": 0.9, **DECAY}

# torch's rule, torch's arguments, paddle's class, paddle's arguments, how paddle's rule differs
PAIRS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any], dict[str, Any]]] = {
    "sgd": ("SGD", {}, "SGD", {}, {}),
    "momentum": ("SGD", MOMENTUM, "Momentum", MOMENTUM, {}),
    "nesterov": ("SGD", {**MOMENTUM, "nesterov": True}, "Momentum", {**MOMENTUM, "use_nesterov": True}, {}),
    "adam": ("Adam", {}, "Adam", {}, {}),
    "adam_l2": ("Adam", {"weight_decay": 0.1, "eps": 1e-6}, "Adam", {"weight_decay": 0.1, "epsilon": 1e-6}, {}),
    "adamw": ("AdamW", DECAY, "AdamW", DECAY, {}),
    "amsgrad": ("AdamW", {**DECAY, "amsgrad": True}, "AdamW", {**DECAY, "amsgrad": True}, {}),
    "nadam": ("NAdam", {}, "NAdam", {}, {}),
    "radam": ("RAdam", {}, "RAdam", {}, {}),
    "adamax": ("Adamax", {}, "Adamax", {}, {"eps_on_norm": True}),
    "adagrad": ("Adagrad", {}, "Adagrad", {"epsilon": 1e-10}, {}),
    "rmsprop": (
        "RMSprop",
        {"centered": True, "momentum": 0.9},
        "RMSProp",
        {"rho": 0.99, "epsilon": 1e-16, "centered": True, "momentum": 0.9},
        {"eps_inside_sqrt": 1e-16, "lr_in_velocity": True},
    ),
    "adadelta": ("Adadelta", {}, "Adadelta", {"rho": 0.9}, {}),
    "rprop": ("Rprop", {}, "Rprop", {"learning_rate_range": (1e-6, 50.0)}, {}),
}


TORCH_ONLY: dict[str, tuple[str, dict[str, Any]]] = {
    "asgd": ("ASGD", {"lambd": 0.01}),
    "dampening": ("SGD", {"momentum": 0.9, "dampening": 0.3}),
}


def rates(rule: str) -> list[float]:
    return [1e-3] * STEPS if rule == "Rprop" else [1e-3 * 0.97**step for step in range(STEPS)]


@pytest.fixture(scope="module", params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def data(dtype: str) -> Data:
    return given_gradients(dtype, STEPS)


@pytest.fixture(scope="module")
def torch_saved(torch_python: str, data: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Data]:
    rules = {**{pair: PAIRS[pair][:2] for pair in PAIRS}, **TORCH_ONLY}
    requests = {
        pair: {"class": rule, "arguments": {**hyper, "lr": 1e-3}, "lr": rates(rule)}
        for pair, (rule, hyper) in rules.items()
    }
    return step_optimizers("torch", str(torch_python), requests, data, tmp_path_factory.mktemp("torch"))


@pytest.fixture(scope="module")
def paddle_saved(paddle_python: str, data: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Data]:
    requests = {
        pair: {"class": framework_class, "arguments": arguments, "lr": rates(rule)}
        for pair, (rule, _, framework_class, arguments, _) in PAIRS.items()
    }
    return step_optimizers("paddle", str(paddle_python), requests, data, tmp_path_factory.mktemp("paddle"))


@pytest.mark.parametrize("pair", [*PAIRS, *TORCH_ONLY])
def test_a_torch_optimizer_does_what_its_rule_predicts(
    pair: str, dtype: str, data: Data, torch_saved: dict[str, Data]
) -> None:
    rule, hyper = TORCH_ONLY[pair] if pair in TORCH_ONLY else PAIRS[pair][:2]
    lr = rates(rule)
    for name, step, before, used, state, after, later in updates(torch_saved[pair], data, STEPS):
        judged = judge_update(rule, hyper, before, used, state, after, later, lr[step], step, dtype)
        assert judged is not None and judged.fits, (name, step, judged)
        assert judged.variant in ("", "float32_scalars"), (name, step)


@pytest.mark.parametrize("pair", list(PAIRS))
def test_the_paddle_optimizer_of_the_same_meaning_does_what_torchs_rule_predicts(
    pair: str, dtype: str, data: Data, paddle_saved: dict[str, Data]
) -> None:
    rule, hyper, _, _, form = PAIRS[pair]
    lr, variants = rates(rule), set()
    for name, step, before, used, state, after, later in updates(paddle_saved[pair], data, STEPS):
        judged = judge_update(rule, {**hyper, **form}, before, used, state, after, later, lr[step], step, dtype)
        assert judged is not None and judged.fits, (name, step, judged)
        variants.add(judged.variant)
    if dtype == "float64" and pair in ("momentum", "adamw", "nadam", "radam", "adadelta"):
        assert variants & {"float32_hyperparameters", "float32_weight_decay"}


def test_an_unknown_rule_predicts_nothing() -> None:
    assert predict("LBFGS", {}, np.ones(3), np.ones(3), {}, 0.1, 0) is None
    assert "AdamW" in known_rules()


def test_adams_first_step_moves_by_the_rate_along_the_gradients_sign() -> None:
    predicted = predict("Adam", {"eps": 0.0}, np.zeros(3), np.array([1e-3, -2.0, 5.0]), {}, 0.1, 0)
    assert predicted is not None
    np.testing.assert_allclose(predicted.parameter, [-0.1, 0.1, -0.1], rtol=1e-12)
    np.testing.assert_allclose(predicted.state["moment1"], [1e-4, -0.2, 0.5], rtol=1e-12)


def test_a_first_velocity_is_the_gradient_whatever_the_dampening() -> None:
    hyper = {"momentum": 0.9, "dampening": 0.5}
    first = predict("SGD", hyper, np.zeros(1), np.ones(1), {}, 1.0, 0)
    assert first is not None and first.state["velocity"][0] == 1.0
    second = predict("SGD", hyper, first.parameter, np.ones(1), first.state, 1.0, 1)
    assert second is not None and second.state["velocity"][0] == pytest.approx(1.4)


def test_decoupled_decay_shrinks_and_coupled_decay_pulls_through_the_gradient() -> None:
    decoupled = predict("AdamW", {"weight_decay": 0.5}, np.full(2, 2.0), np.zeros(2), {}, 0.1, 0)
    coupled = predict("SGD", {"weight_decay": 0.5}, np.full(2, 2.0), np.zeros(2), {}, 0.1, 0)
    assert decoupled is not None and coupled is not None
    np.testing.assert_allclose(decoupled.parameter, 2.0 * (1 - 0.05))
    np.testing.assert_allclose(coupled.parameter, 2.0 - 0.1)


def test_betas_may_come_as_one_tuple() -> None:
    apart = predict("Adam", {"beta1": 0.5, "beta2": 0.7}, np.ones(2), np.ones(2), {}, 0.1, 0)
    together = predict("Adam", {"betas": (0.5, 0.7)}, np.ones(2), np.ones(2), {}, 0.1, 0)
    assert apart is not None and together is not None
    np.testing.assert_array_equal(apart.state["moment2"], together.state["moment2"])


def test_a_gradient_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a gradient of shape \(3,\), got \(2,\)"):
        predict("SGD", {}, np.ones(3), np.ones(2), {}, 0.1, 0)


def test_the_states_own_count_beats_the_step() -> None:
    state = {"moment1": np.zeros(1), "moment2": np.zeros(1), "step": np.asarray(9.0, np.float32)}
    predicted = predict("Adam", {}, np.ones(1), np.ones(1), state, 0.1, 3)
    assert predicted is not None and predicted.state["step"] == 10.0


def one(rule: str, hyper: dict[str, Any], value: float, gradient: float, state: Data | None = None, lr: float = 0.1) -> Any:
    """Return what a rule makes of one number."""
    predicted = predict(rule, hyper, np.array([value]), np.array([gradient]), state or {}, lr, 0)
    assert predicted is not None
    return predicted


def test_nesterovs_momentum_looks_ahead_by_the_new_velocity() -> None:
    hyper = {"momentum": 0.5, "nesterov": True}
    predicted = one("SGD", hyper, 0.0, 2.0, {"velocity": np.array([4.0])}, lr=1.0)
    assert (predicted.state["velocity"][0], predicted.parameter[0]) == (4.0, -4.0)
    assert one("SGD", {"momentum": 0.5}, 0.0, 3.0, {"velocity": np.array([4.0])}, lr=1.0).parameter[0] == -5.0
    assert one("SGD", hyper, 0.0, 3.0, {"velocity": np.array([4.0])}, lr=1.0).parameter[0] == -5.5


def test_amsgrad_divides_by_the_greatest_second_moment_so_far() -> None:
    hyper = {"beta1": 0.5, "beta2": 0.5, "eps": 0.0, "amsgrad": True}
    for greatest, root in ((16.0, 4.0), (1.0, 2.0)):
        slots = {"moment1": 0.0, "moment2": 4.0, "moment2_max": greatest, "step": 1.0}
        predicted = one("Adam", hyper, 0.0, 2.0, {slot: np.array([value]) for slot, value in slots.items()})
        assert predicted.parameter[0] == pytest.approx(-0.1 / 0.75 * 1.0 / (root / np.sqrt(0.75)))
        assert predicted.state["moment2_max"][0] == root**2


def test_a_centred_rmsprop_divides_by_the_deviation() -> None:
    assert one("RMSprop", {"alpha": 0.5, "eps": 0.0, "centered": True}, 0.0, 2.0).parameter[0] == pytest.approx(-0.2)


def test_adamaxs_epsilon_stands_beside_the_gradient_or_the_norm() -> None:
    hyper, state = {"beta1": 0.5, "beta2": 0.5, "eps": 1.0}, {"moment1": np.zeros(1), "inf_norm": np.array([4.0])}
    assert one("Adamax", hyper, 0.0, 2.5, state).state["inf_norm"][0] == 3.5
    assert one("Adamax", hyper, 0.0, 0.5, state).state["inf_norm"][0] == 2.0
    assert one("Adamax", {**hyper, "eps_on_norm": True}, 0.0, 2.5, state).state["inf_norm"][0] == 3.0
    assert one("Adamax", {**hyper, "eps_on_norm": True}, 0.0, 3.5, state).state["inf_norm"][0] == 3.5


def test_a_scalar_slot_is_as_exact_as_the_state_keeps_it() -> None:
    for dtype in (np.float32, np.float64):
        later = one("ASGD", {"lambd": 0.3}, 1.0, 1.0, {"eta": np.asarray(0.1, dtype)}).state["eta"]
        exact = 0.1 / (1.0 + 0.3 * 0.1) ** 0.75
        assert float(later) == (float(np.float32(exact)) if dtype == np.float32 else exact)


def test_an_l1_term_pulls_by_its_sign_alone() -> None:
    for value, expected in ((2.0, 1.95), (-2.0, -1.95), (0.0, 0.0)):
        predicted = one("SGD", {"l1_decay": 0.5}, value, 0.0)
        assert predicted.parameter[0] == pytest.approx(expected) and predicted.scale[0] == pytest.approx(0.05)


def test_a_gradient_may_be_scaled_climbed_and_joined_by_decay_beside_the_decoupled_one() -> None:
    assert one("SGD", {"maximize": True}, 2.0, 1.0).parameter[0] == pytest.approx(2.1)
    assert one("SGD", {"gradient_scale": 0.5}, 2.0, 1.0).parameter[0] == pytest.approx(1.95)
    assert one("SGD", {"weight_decay": 0.1, "coupled_weight_decay": 0.2}, 2.0, 0.0).parameter[0] == pytest.approx(1.94)
    both = one("AdamW", {"weight_decay": 0.5, "coupled_weight_decay": 0.2}, 2.0, 0.0)
    assert both.state["moment1"][0] == pytest.approx(0.04)
    assert both.parameter[0] == pytest.approx(2.0 * 0.95 - 0.1)


def test_adamw_decays_by_a_hundredth_where_nothing_is_said_and_rounds_the_parameter_twice_more_for_it() -> None:
    assert one("AdamW", {}, 2.0, 0.0).parameter[0] == pytest.approx(2.0 * 0.999)
    assert one("Adam", {}, 2.0, 0.0).parameter[0] == 2.0
    roundings = [one("AdamW", {"weight_decay": decay}, 2.0, 0.0).parameter_roundings for decay in (0.01, 0.0)]
    assert roundings == [3, 1]


def test_the_bias_correction_may_be_left_out_or_run_ahead() -> None:
    plain = {"beta1": 0.9, "beta2": 0.99, "eps": 0.0}
    assert one("Adam", plain, 0.0, 2.0).parameter[0] == pytest.approx(-0.1)
    assert one("Adam", {**plain, "bias_correction": False}, 0.0, 2.0).parameter[0] == pytest.approx(-0.1 * 0.1 / 0.1)
    ahead = one("Adam", {**plain, "correction_offset": 1}, 0.0, 2.0)
    assert ahead.parameter[0] == pytest.approx(-0.1 * (0.1 / 0.19) / np.sqrt(0.01 / 0.0199))


def test_an_epsilon_beside_the_root_before_its_correction_weighs_more() -> None:
    hyper = {"beta1": 0.9, "beta2": 0.99, "eps": 0.2}
    assert one("Adam", hyper, 0.0, 2.0).parameter[0] == pytest.approx(-0.1 * 2.0 / 2.2)
    before = one("Adam", {**hyper, "eps_before_correction": True}, 0.0, 2.0)
    assert before.parameter[0] == pytest.approx(-0.1 * 2.0 / ((0.2 + 0.2) / 0.1))


def test_adagrads_rate_falls_with_its_count_and_its_sum_starts_where_it_is_told() -> None:
    state = {"sum_of_squares": np.array([5.0]), "step": np.asarray(4.0)}
    assert one("Adagrad", {"lr_decay": 0.5}, 0.0, 2.0, state).parameter[0] == pytest.approx(-0.1 / 3.0 * 2.0 / 3.0)
    assert one("Adagrad", {"initial_accumulator_value": 12.0}, 0.0, 2.0).parameter[0] == pytest.approx(-0.1 * 2.0 / 4.0)


def test_an_epsilon_below_rmsprops_root_is_torchs_or_one_of_its_own() -> None:
    hyper = {"alpha": 0.75, "eps": 3.0}
    assert one("RMSprop", hyper, 0.0, 2.0).parameter[0] == pytest.approx(-0.1 * 2.0 / 4.0)
    assert one("RMSprop", {**hyper, "eps_inside_sqrt": True}, 0.0, 2.0).parameter[0] == pytest.approx(-0.1 * 2.0 / 2.0)
    assert one("RMSprop", {**hyper, "eps_inside_sqrt": 8.0}, 0.0, 2.0).parameter[0] == pytest.approx(-0.1 * 2.0 / 3.0)


def test_rprops_steps_stay_within_their_limits_and_paddles_slots_are_torchs_by_other_names() -> None:
    for size, expected in ((10.0, 12.0), (45.0, 50.0)):
        ours = one("Rprop", {}, 0.0, 1.0, {"prev": np.array([1.0]), "step_size": np.array([size])})
        theirs = one("Rprop", {}, 0.0, 1.0, {"prevs": np.array([1.0]), "learning_rates": np.array([size])})
        assert ours.parameter[0] == theirs.parameter[0] == -expected
    turned = one("Rprop", {}, 0.0, -1.0, {"prev": np.array([1.0]), "step_size": np.array([10.0])})
    assert (turned.parameter[0], turned.state["prev"][0], turned.state["step_size"][0]) == (0.0, 0.0, 5.0)
