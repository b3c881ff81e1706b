"""The declared pairings: applied in both directions, and what they cannot express."""

from __future__ import annotations

import math

import pytest

from stepalign.coordinator.atlas.applying import apply
from stepalign.coordinator.atlas.calls import BASE_RATE, Call, Expression, code_of, from_plain, map_floats, to_plain
from stepalign.coordinator.atlas.pairing import NoCounterpart
from stepalign.coordinator.atlas.pairings import PAIRINGS, pairing_of, pairings_of
from stepalign.coordinator.atlas.translating import translate


def test_every_pairing_has_a_key_of_its_own() -> None:
    keys = [pairing.key for pairing in PAIRINGS]
    assert sorted(set(keys)) == sorted(keys)
    assert all(pairing_of(key).key == key for key in keys)


def test_adamw_is_written_with_every_default_spelled_out() -> None:
    (found, *_) = translate(Call("torch.optim.AdamW", {"lr": 3e-4}), "torch")
    assert code_of(found.call, {"parameters": "model.parameters()"}) == (
        "paddle.optimizer.AdamW(learning_rate=0.0003, beta1=0.9, beta2=0.999, epsilon=1e-08, weight_decay=0.01, "
        "amsgrad=False, parameters=model.parameters())"
    )
    assert found.lost == ()


def test_the_defaults_written_are_those_of_the_side_that_is_translated() -> None:
    (there, *_) = translate(Call("torch.optim.Adagrad"), "torch")
    assert there.call.arguments["epsilon"] == 1e-10
    (back, *_) = translate(Call("paddle.optimizer.Adagrad", {"learning_rate": 0.01}), "paddle")
    assert back.call.arguments["eps"] == 1e-6


@pytest.mark.parametrize("pairing", [item for item in PAIRINGS if item.kind == "optimizer" and not item.to_paddle])
def test_an_optimizer_translated_there_and_back_has_its_arguments_again(pairing: object) -> None:
    for configuration in pairing.configurations:  # type: ignore[attr-defined]
        if configuration.side == "torch":
            call = Call(pairing.torch, configuration.arguments)  # type: ignore[attr-defined]
            there = apply(pairing, call, "torch").call  # type: ignore[arg-type]
            back = apply(pairing, there, "paddle").call  # type: ignore[arg-type]
            for name, value in configuration.arguments.items():
                if name in back.arguments:
                    assert back.arguments[name] == pytest.approx(value), (pairing, name)


def test_sgd_with_momentum_becomes_momentum_and_dampening_is_said_to_be_lost() -> None:
    found = translate(Call("torch.optim.SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}), "torch")
    assert found[0].call.name == "Momentum"
    assert [text.partition(":")[0] for text in found[0].lost] == ["dampening=0.5"]


def test_rmsprop_gets_the_square_of_epsilon() -> None:
    (found, *_) = translate(Call("torch.optim.RMSprop", {"eps": 1e-3}), "torch")
    assert found.call.arguments["epsilon"] == pytest.approx(1e-6)


def test_l2_decay_becomes_a_number_and_l1_decay_is_refused_with_what_to_do() -> None:
    decay = Call("paddle.regularizer.L2Decay", {"coeff": 0.02})
    (found, *_) = translate(Call("paddle.optimizer.Momentum", {"weight_decay": decay}), "paddle")
    assert found.call.arguments["weight_decay"] == 0.02
    with pytest.raises(NoCounterpart, match="add its term to the gradients"):
        translate(Call("paddle.optimizer.SGD", {"weight_decay": Call("paddle.regularizer.L1Decay", {})}), "paddle")


def test_a_growing_exponential_is_refused() -> None:
    with pytest.raises(NoCounterpart, match="use LambdaDecay"):
        translate(Call("torch.optim.lr_scheduler.ExponentialLR", {"gamma": 1.01, BASE_RATE: 0.1}), "torch")


def test_a_warm_up_before_cosine_becomes_linear_warmup_around_it() -> None:
    schedules = "torch.optim.lr_scheduler."
    parts = [
        Call(schedules + "LinearLR", {"start_factor": 0.1, "total_iters": 10}),
        Call(schedules + "CosineAnnealingLR", {"T_max": 90}),
    ]
    call = Call(schedules + "SequentialLR", {"schedulers": parts, "milestones": [10], BASE_RATE: 0.2})
    native, closed = translate(call, "torch")
    assert code_of(native.call) == (
        "paddle.optimizer.lr.LinearWarmup(learning_rate=paddle.optimizer.lr.CosineAnnealingDecay(learning_rate=0.2, "
        "T_max=90, eta_min=0.0), warmup_steps=10, start_lr=0.020000000000000004, end_lr=0.2)"
    )
    factor = eval(closed.call.arguments["lr_lambda"].text, {"math": math})  # noqa: S307 (the pairing's own code)
    assert factor(5) == pytest.approx(0.1 + 0.9 * 5 / 10)
    assert factor(10) == 1.0
    assert factor(55) == pytest.approx(0.5)


def test_a_pairing_of_one_direction_is_not_used_in_the_other() -> None:
    with pytest.raises(NoCounterpart):
        apply(pairing_of("optim.lr_scheduler.LambdaLR -> optimizer.lr.NoamDecay"), Call("x"), "torch")
    assert pairings_of("paddle.optimizer.lr.NoamDecay", "paddle")


def test_a_class_without_a_counterpart_has_no_translation() -> None:
    assert translate(Call("torch.optim.Muon"), "torch") == []
    assert translate(Call("paddle.optimizer.Lamb"), "paddle") == []


def test_a_call_survives_the_way_to_a_worker() -> None:
    call = Call("a.B", {"x": (1, 2.5), "y": [Call("c.D", {"f": Expression("lambda step: step")})], "z": None})
    assert from_plain(to_plain(call)) == call
    assert map_floats(call, lambda value: value + 1).arguments["x"] == (1, 3.5)
