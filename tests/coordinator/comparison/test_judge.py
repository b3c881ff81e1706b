"""What a step's judgement says of both sides' numbers, kind by kind: plain arrays."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.comparison.clip_rules import predict_clip
from stepalign.coordinator.running.verdict import divergence_of
from stepalign.protocol.specs import TensorSpec

from .judged_steps import RATE, SHAPES, Arrays, Steps, train, with_optimizer


def first(steps: Steps, **options: Any) -> tuple[int, str, str]:
    """Return step, kind and name of the first failure."""
    failure = steps.failed(**options)[0]
    return failure.step, failure.kind, failure.name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_sides_that_follow_the_rule_from_gradients_a_rounding_apart_agree(dtype: str) -> None:
    steps = train(dtype=dtype)
    assert steps.failed() == []
    kinds = list(dict.fromkeys(item.kind for item in steps.judge()[0].comparisons))
    assert kinds == ["batch", "initial_parameter", "lr", "loss", "gradient", "optimizer_state", "parameter", "buffer"]
    assert "initial_parameter" not in {item.kind for item in steps.judge()[1].comparisons}


@pytest.mark.parametrize(("torch", "paddle"), [("other", "sent"), ("sent", "other"), ("other", "other")])
def test_a_batch_that_a_side_did_not_see_as_it_was_sent_is_certain_to_be_wrong(torch: str, paddle: str) -> None:
    steps = train(steps=1)
    pair = steps.pairs[0]
    steps.pairs[0] = replace(
        pair,
        reference=replace(pair.reference, batch_digest=torch),
        candidate=replace(pair.candidate, batch_digest=paddle),
    )
    (failure,) = steps.failed()
    assert (failure.kind, failure.exact) == ("batch", True)
    assert failure.reason == f"sent sent, torch saw {torch}, paddle saw {paddle}"


def test_initial_weights_have_to_be_the_very_same() -> None:
    steps = train()
    weight = steps.initial[1]["fc.weight"] = steps.initial[1]["fc.weight"].copy()
    weight[2, 3] = np.nextafter(weight[2, 3], np.float32(9.0))
    failure = steps.failed()[0]
    assert (failure.step, failure.kind, failure.name, failure.exact) == (0, "initial_parameter", "fc.weight", True)


def test_a_rate_is_compared_with_the_multiplier_that_holds_for_the_group() -> None:
    steps = train(rates=(RATE, 2 * RATE), own={name: {"_rate": RATE} for name in SHAPES})
    assert first(steps) == (0, "lr", "group 0")
    steps.paddle = with_optimizer(steps.paddle, effective={name: {"lr_multiplier": 0.5} for name in SHAPES})
    assert steps.failed() == []


def test_what_a_module_gives_is_compared_and_what_goes_into_it_is_not() -> None:
    steps = train(steps=1)
    output = np.linspace(-1.0, 1.0, 6, dtype=np.float32)
    for side, apart in ((steps.pairs[0].reference, 0.0), (steps.pairs[0].candidate, 0.5)):
        side.tensors["activation"] = {"fc": output, "fc@input": output + np.float32(apart)}
    assert steps.failed() == []
    steps.pairs[0].candidate.tensors["activation"]["fc"] = output + np.float32(8e-6)
    assert steps.failed() == []
    (full,) = (item.measures for item in steps.judge()[0].comparisons if item.kind == "activation")
    apart = 8e-6 * math.sqrt(6) / np.linalg.norm(output)
    assert full is not None and full.complete and full.rel_l2 == pytest.approx(apart, rel=0.1)
    steps.pairs[0].candidate.tensors["activation"]["fc"] = output + np.float32(1.5e-5)
    assert first(steps) == (0, "activation", "fc")


@pytest.mark.parametrize("lost", ["gradient", "buffer"])
def test_a_kind_that_one_side_lacks_altogether_fails(lost: str) -> None:
    steps = train(steps=1)
    steps.pairs[0].candidate.tensors[lost] = {}
    lacking = [item for item in steps.failed() if item.kind == lost]
    assert lacking and all("the paddle side has no" in item.reason and item.exact for item in lacking)


def test_what_came_nearest_to_its_tolerance_is_measured_in_full_of_each_kind() -> None:
    steps = train(steps=1)
    for name, by in (("fc.weight", 1.000001), ("fc.bias", 1.00001), ("out.weight", 1.000002)):
        steps.change(0, "gradient", name, steps.of(0, "gradient", name) * np.float32(by))
    found = [item for item in steps.judge()[0].comparisons if item.kind == "gradient" and item.measures is not None]
    assert all(item.passed for item in found) and len(found) == 3
    (full,) = (item for item in found if item.measures is not None and item.measures.complete)
    assert full.name == "fc.bias" and full.measures is not None and full.measures.rel_l2 == pytest.approx(1e-5, rel=0.1)


def test_what_a_rule_fails_within_the_plain_tolerance_is_measured_in_full() -> None:
    """Its values were only screened: told as they were, they differed by a number and relatively by nothing."""
    steps = train("SGD", steps=1, own={name: {"weight_decay": 1e-4} for name in SHAPES})
    failed = steps.failed()
    assert failed[0].kind == "parameter" and len(failed) > 1
    told = divergence_of(failed[0])
    assert told.max_abs and told.max_rel and told.rel_l2 and told.max_ulp
    screened = [divergence_of(item) for item in failed if item.measures is not None and not item.measures.complete]
    assert screened and all(item.max_abs and item.max_rel is item.rel_l2 is item.max_ulp is None for item in screened)


def test_gradients_are_named_from_the_loss_back() -> None:
    steps = train(steps=1)
    for name in ("fc.weight", "out.weight"):
        steps.change(0, "gradient", name, steps.of(0, "gradient", name) * np.float32(1.01))
    failed = [item.name for item in steps.failed() if item.kind == "gradient"]
    assert failed == ["out.weight", "fc.weight"]


@pytest.mark.parametrize(("size", "passes"), [(0.0, True), (1.0, False)])
@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_a_gradient_of_zeros_is_as_good_as_none_and_another_is_not(side: str, size: float, passes: bool) -> None:
    steps = train("SGD", steps=1, sizes={"fc.bias": size})
    steps.change(0, "gradient", "fc.bias", None, side)
    assert [item.name for item in steps.failed() if item.kind == "gradient"] == ([] if passes else ["fc.bias"])


def clipped(limit: float, epsilon: float = 0.0) -> Any:
    """Return a clip by the global norm."""

    def clip(raw: Arrays) -> Arrays:
        norm = float(np.sqrt(sum(np.sum(value.astype(np.float64) ** 2) for value in raw.values())))
        return {name: (value * (limit / (norm + epsilon))).astype(value.dtype) for name, value in raw.items()}

    return clip


def test_gradients_that_are_clipped_alike_agree_and_the_rule_is_held_against_what_the_optimizer_used() -> None:
    steps = train("SGD", clips=(clipped(0.5), clipped(0.5)))
    assert steps.failed() == []
    assert all(item.exact for judgement in steps.judge() for item in judgement.comparisons if item.kind == "parameter")


@pytest.mark.parametrize("clips", [(clipped(0.5), dict), (dict, clipped(0.5))])
def test_a_clip_on_one_side_fails_as_the_optimizer_used_it(clips: Any) -> None:
    steps = train("SGD", steps=1, clips=clips)
    for side in (steps.pairs[0].reference, steps.pairs[0].candidate):
        if all(np.array_equal(side.tensors["used_gradient"][name], side.tensors["gradient"][name]) for name in SHAPES):
            side.tensors["used_gradient"] = {}
    failed = [item for item in steps.failed() if item.kind == "gradient"]
    assert {item.name for item in failed} == {*SHAPES}
    assert all(item.reason.startswith("as the optimizer used it: ") for item in failed)
    assert not [item for item in steps.failed() if item.kind == "parameter"]


def test_torchs_epsilon_beside_the_norm_is_known_where_paddle_clips_inside_and_counts_when_strict() -> None:
    sizes = dict.fromkeys(SHAPES, 0.0001)
    steps = train("SGD", clips=(clipped(1e-4, 1e-6), clipped(1e-4)), sizes=sizes)
    assert {item.kind for item in steps.failed()} == {"gradient"}
    steps.paddle = with_optimizer(steps.paddle, clip={"type": "global_norm"})
    assert steps.failed() == [] and ("clip_norm_epsilon", "") in steps.known()
    assert {item.kind for item in steps.failed(strict=True)} == {"gradient"}


def test_a_clip_that_agrees_hides_no_raw_gradient_that_differs() -> None:
    def normed(raw: Arrays) -> Arrays:
        return {name: value.astype(raw[name].dtype) for name, value in predict_clip("clip_value", {"max": 1e-3}, raw).items()}

    steps = train("SGD", steps=1, clips=(normed, normed))
    steps.change(0, "gradient", "fc.weight", steps.of(0, "gradient", "fc.weight") * np.float32(1.01))
    assert first(steps) == (0, "gradient", "fc.weight")


def test_state_is_named_before_the_parameter_that_it_moves() -> None:
    steps = train(steps=2)
    for kind, name in (("parameter", "fc.weight"), ("optimizer_state", "out.weight/moment1")):
        steps.change(1, kind, name, steps.of(1, kind, name) * np.float32(1.01))
    failed = steps.failed()
    assert [(item.kind, item.name) for item in failed] == [
        ("optimizer_state", "out.weight/moment1"),
        ("parameter", "fc.weight"),
    ]


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_a_slot_that_one_side_alone_keeps_fails(side: str) -> None:
    steps = train(steps=1)
    steps.change(0, "optimizer_state", "fc.weight/moment3", np.ones((12, 10), np.float32), side)
    assert first(steps) == (0, "optimizer_state", "fc.weight/moment3")


def test_a_slot_of_another_dtype_fails_though_the_rule_fits_its_numbers() -> None:
    steps = train(steps=1)
    moment = steps.of(0, "optimizer_state", "fc.weight/moment1")
    steps.change(0, "optimizer_state", "fc.weight/moment1", moment.astype(np.float64))
    (failure,) = steps.failed()
    assert (failure.kind, failure.reason) == ("optimizer_state", "dtype float32 on torch, float64 on paddle")


def test_a_parameter_that_is_nan_on_both_sides_is_not_finite_whatever_its_rule_says() -> None:
    steps = train(steps=2)
    for number, pair in enumerate(steps.pairs):
        for side, name in ((pair.reference, "torch"), (pair.candidate, "paddle")):
            bias = side.tensors["parameter"]["fc.bias"].copy()
            bias[3] = np.nan
            steps.change(number, "parameter", "fc.bias", bias, name)
    failed = [item for item in steps.failed() if item.step == 1]
    assert [(item.kind, item.name) for item in failed] == [("parameter", "fc.bias")]
    assert failed[0].reason.startswith("not finite")
    assert [item for item in steps.failed(allow_nonfinite=True) if item.step == 1] == []


def noisy_bias(apart: bool, rule: str = "AdamW", number_of_steps: int = 2, rate: float = RATE) -> Steps:
    """Return steps in which only rounding noise moves ``fc.bias``, by another chance on either side if ``apart``."""
    steps = train(rule, steps=number_of_steps, sizes={"fc.bias": 1e-9}, rates=(rate, rate))
    if apart:
        flipped = train(rule, steps=number_of_steps, sizes={"fc.bias": -0.5e-9}, rates=(rate, rate))
        for number in range(number_of_steps):
            theirs = flipped.pairs[number].candidate.tensors
            for kind in ("gradient", "parameter", "optimizer_state"):
                for name in [name for name in theirs[kind] if name.startswith("fc.bias")]:
                    steps.change(number, kind, name, theirs[kind][name])
    return steps


def test_a_parameter_that_only_noise_moves_may_be_anywhere_and_is_known_where_that_shows() -> None:
    steps = noisy_bias(apart=True)
    assert steps.failed() == []
    assert steps.known() == {("rounding_noise_update", "fc.bias")}
    assert noisy_bias(apart=False).known() == set()


def test_noise_excuses_no_update_that_breaks_the_rule() -> None:
    steps = noisy_bias(apart=True)
    steps.change(1, "parameter", "fc.bias", steps.of(1, "parameter", "fc.bias") + np.float32(1e-3))
    assert first(steps) == (1, "parameter", "fc.bias")
    assert ("rounding_noise_update", "fc.bias") not in {
        (item.code, item.torch_name) for item in steps.judge()[1].known
    }


def averaged_bias(decay: float) -> Steps:
    """Return steps in which a script averages a bias that only noise moves, on paddle's side with ``decay``; of the third step
    nothing was collected, and of the fourth no more than the state that the next update starts from.
    """
    steps = noisy_bias(apart=True, number_of_steps=4, rate=0.1)
    average = TensorSpec("average.bias", "parameter", (12,), "float32", False, "average", "", "bias")
    steps.torch, steps.paddle = (replace(side, tensors=(*side.tensors, average)) for side in (steps.torch, steps.paddle))
    for number, (side, kept) in enumerate((("torch", 0.9), ("paddle", decay))):
        value = steps.initial[number]["average.bias"] = steps.initial[number]["fc.bias"]
        for step, pair in enumerate(steps.pairs):
            source = (pair.reference, pair.candidate)[number].tensors["parameter"]["fc.bias"]
            value = (kept * value + (1.0 - kept) * source).astype(np.float32)
            steps.change(step, "parameter", "average.bias", value, side)
    for result in (steps.pairs[2].reference, steps.pairs[2].candidate):
        result.tensors.clear()
    for result in (steps.pairs[3].reference, steps.pairs[3].candidate):
        del result.tensors["gradient"]
    return steps


def test_what_follows_a_tensor_that_noise_moves_may_be_anywhere_too_after_steps_that_nothing_was_collected_of() -> None:
    steps = averaged_bias(0.9)
    assert steps.failed() == []
    assert ("moving_average", "average.bias") in steps.known()
    judge, other = steps.new_judge(), steps.new_judge()
    judge.begin(*steps.initial)
    for pair in steps.pairs[:3]:
        judge.judge(pair)
    other.remember(judge.memory())
    assert all(item.passed for item in other.judge(steps.pairs[3]).comparisons)
    names = {(item.step, item.name) for item in averaged_bias(0.8).failed()}
    assert names == {(step, "average.bias") for step in (0, 1)}


def without_rule(steps: Steps) -> Steps:
    """Return the steps as those of an optimizer whose rule nobody knows."""
    steps.torch, steps.paddle = (with_optimizer(side, type="Lion") for side in (steps.torch, steps.paddle))
    return steps


def test_without_a_rule_an_update_is_compared_by_value_against_its_own_size() -> None:
    steps = without_rule(train(steps=1))
    assert steps.failed() == []
    steps.change(0, "parameter", "fc.bias", steps.of(0, "parameter", "fc.bias") + np.float32(0.02 * RATE))
    failure = steps.failed()[0]
    assert (failure.kind, failure.name, failure.exact) == ("parameter", "fc.bias", False)


def test_without_a_rule_a_parameter_may_be_a_rounding_of_itself_apart() -> None:
    for by, passes in ((2.5e-7, True), (1e-6, False)):
        steps = without_rule(train(steps=1))
        bias = steps.of(0, "parameter", "fc.bias").copy()
        largest = int(np.argmax(np.abs(bias)))
        bias[largest] *= np.float32(1.0 + by)
        steps.change(0, "parameter", "fc.bias", bias)
        assert [item.name for item in steps.failed()] == ([] if passes else ["fc.bias"])


@pytest.mark.parametrize(("dtype", "apart"), [("float32", 1e-5), ("float64", 1e-6)])
def test_a_loss_may_be_apart_by_what_is_allowed_in_its_dtype(dtype: str, apart: float) -> None:
    for share, passes in ((0.9, True), (1.2, False)):
        steps = train(steps=1, dtype=dtype)
        loss = np.asarray(1.0 + share * apart, dtype)
        steps.pairs[0] = replace(steps.pairs[0], candidate=replace(steps.pairs[0].candidate, loss=loss))
        assert [item.kind for item in steps.failed()] == ([] if passes else ["loss"])


def test_without_a_rule_what_only_noise_moves_may_differ_by_its_whole_update() -> None:
    first_step = without_rule(noisy_bias(apart=True)).judge()[0]
    assert [item.name for item in first_step.comparisons if item.kind == "parameter" and not item.passed] == []


def test_without_a_rule_state_may_hold_noise_beside_the_models_greatest() -> None:
    steps = without_rule(train(steps=1, sizes={"fc.bias": 1e-5}))
    moment = steps.of(0, "optimizer_state", "fc.bias/moment1")
    steps.change(0, "optimizer_state", "fc.bias/moment1", moment + np.float32(1e-7))
    assert steps.failed() == []
    steps.change(0, "optimizer_state", "fc.bias/moment1", moment + np.float32(1e-6))
    assert first(steps) == (0, "optimizer_state", "fc.bias/moment1")


def test_the_drift_is_how_far_the_parameters_are_apart_and_widens_what_a_later_loss_may_be() -> None:
    steps = train(steps=2)
    for step in (0, 1):
        for name in SHAPES:
            steps.change(step, "parameter", name, steps.of(step, "parameter", name) * np.float32(1.001))
    assert steps.judge()[0].drift == pytest.approx(1e-3, rel=1e-3)
    pair = steps.pairs[1]
    steps.pairs[1] = replace(pair, candidate=replace(pair.candidate, loss=np.asarray(1.002, np.float32)))
    assert "loss" not in {item.kind for item in steps.failed() if item.step == 1}
    steps.pairs[0] = replace(steps.pairs[0], candidate=replace(steps.pairs[0].candidate, loss=np.asarray(1.002, np.float32)))
    assert first(steps) == (0, "loss", "loss")


def test_after_both_sides_went_on_from_torchs_state_nothing_of_paddles_is_left() -> None:
    apart, together = train(steps=2), train(steps=2)
    for kind in ("gradient", "parameter"):
        apart.change(0, kind, "fc.weight", apart.of(0, kind, "fc.weight") * np.float32(1.5))
    moment = "fc.weight/moment1"
    apart.change(0, "optimizer_state", moment, apart.of(0, "optimizer_state", moment) * np.float32(1.5))
    same = together.pairs[1].reference
    apart.pairs[1] = replace(apart.pairs[1], reference=same, candidate=same)
    judge = apart.new_judge()
    judge.begin(*apart.initial)
    assert judge.judge(apart.pairs[0]).drift > 0.1
    judge.resynchronised()
    assert judge.memory().drift == 0.0
    judgement = judge.judge(apart.pairs[1])
    assert judgement.first_failure() is None
    assert all(item.exact for item in judgement.comparisons if item.kind in ("parameter", "optimizer_state"))


def test_a_judge_goes_on_from_what_another_remembers() -> None:
    steps = train("RMSprop", {"eps": 1e-3}, {"eps_inside_sqrt": 1e-6, "lr_in_velocity": True}, rates=(1.0, 1.0), steps=3)
    pair = steps.pairs[2]
    steps.pairs[2] = replace(
        pair, reference=replace(pair.reference, lr=[0.0]), candidate=replace(pair.candidate, lr=[5e-16])
    )
    whole = steps.judge()
    assert [item for item in whole[2].comparisons if item.kind == "lr" and not item.passed] == []
    judge = steps.new_judge()
    judge.begin(*steps.initial)
    for done in steps.pairs[:2]:
        judge.judge(done)
    other = steps.new_judge()
    other.remember(judge.memory())
    assert other.judge(steps.pairs[2]) == whole[2]


def batch_norm(share: float) -> Steps:
    """Return steps in which paddle's running variance takes ``share`` of the batch's."""
    steps = train(steps=1)
    before = steps.initial[0]["bn.running_var"]
    batch = np.random.default_rng(3).uniform(0.5, 2.0, 12).astype(np.float32)
    for part, side in ((1.0, "torch"), (share, "paddle")):
        steps.change(0, "buffer", "bn.running_var", np.float32(0.9) * before + np.float32(0.1 * part) * batch, side)
    return steps


def test_paddles_biased_variance_is_known_and_counts_when_strict() -> None:
    steps = batch_norm(15 / 16)
    assert steps.failed() == [] and steps.known() == {("batch_norm_running_variance", "bn.running_var")}
    assert first(steps, strict=True) == (0, "buffer", "bn.running_var")
    assert steps.known(strict=True) == set()


def following_mean(size: float) -> Steps:
    """Return steps in which ``fc.bias``, with gradients of this size, is apart before the last, and a running mean follows."""
    steps = train(steps=2, sizes={"fc.bias": size})
    steps.change(0, "parameter", "fc.bias", steps.of(0, "parameter", "fc.bias") + np.float32(0.01))
    steps.change(1, "parameter", "fc.bias", steps.of(1, "parameter", "fc.bias") + np.float32(0.01))
    means = np.linspace(1e-4, 1e-3, 12, dtype=np.float32)
    for step in (0, 1):
        for side in ("torch", "paddle"):
            steps.change(step, "buffer", "bn.running_mean", means, side)
    steps.change(1, "buffer", "bn.running_mean", means + np.float32(1e-3))
    return steps


def test_a_running_mean_may_follow_a_bias_that_noise_alone_moves_and_no_other() -> None:
    assert ("noise_driven_running_mean", "bn.running_mean") in following_mean(1e-9).known()
    assert "buffer" not in {item.kind for item in following_mean(1e-9).failed()}
    assert [item.step for item in following_mean(1.0).failed() if item.name == "bn.running_mean"] == [1]


def test_a_buffer_that_no_formula_explains_fails() -> None:
    assert first(batch_norm(1.1)) == (0, "buffer", "bn.running_var")
    biased = batch_norm(15 / 16)
    biased.change(0, "buffer", "bn.running_var", biased.of(0, "buffer", "bn.running_var") + np.float32(1e-3))
    assert first(biased) == (0, "buffer", "bn.running_var")
    steps = train(steps=1)
    steps.change(0, "buffer", "bn.running_mean", steps.of(0, "buffer", "bn.running_mean") + np.float32(1e-3))
    assert first(steps) == (0, "buffer", "bn.running_mean")


def test_a_running_mean_of_nothing_is_known_to_a_part_of_its_standard_deviation() -> None:
    steps = train(steps=1)
    for side in ("torch", "paddle"):
        steps.change(0, "buffer", "bn.running_var", np.full(12, 1e-4, np.float32), side)
        steps.change(0, "buffer", "bn.running_mean", np.zeros(12, np.float32), side)
    steps.change(0, "buffer", "bn.running_mean", np.full(12, 0.9e-7, np.float32))
    assert steps.failed() == []
    steps.change(0, "buffer", "bn.running_mean", np.full(12, 1.1e-7, np.float32))
    assert first(steps) == (0, "buffer", "bn.running_mean")
