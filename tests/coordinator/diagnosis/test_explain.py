"""Which causes a failure gets, and in which order: steps that rules made, and places as a replay finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Optional

import numpy as np
import pytest

from stepalign.coordinator.cases.case import WeightsSection
from stepalign.coordinator.comparison.comparison import AS_USED, Comparison
from stepalign.coordinator.comparison.measures import Measures
from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.diagnosis.explain import Evidence, explain
from stepalign.coordinator.diagnosis.loss.loss_formula import LossSite
from stepalign.coordinator.running.first_difference import Located
from stepalign.coordinator.running.recorder import Recorder
from stepalign.coordinator.sessions.naming import match_names
from stepalign.protocol.specs import Declaration, GroupSpec, ModuleSpec

from ..comparison.judged_steps import SHAPES, Arrays, Steps, train, with_optimizer

DECAY = {"weight_decay": 0.01}
NO_DECAY = {"weight_decay": 0.0}
LABELS = np.array([0, 1, 2, 1])
LOGITS = np.array([[2.0, 0.5, -1.0], [0.1, 1.0, 0.3], [0.0, 0.2, 0.9], [1.5, 0.4, 0.3]], np.float32)


def evidence(steps: Steps, *findings: Finding, batch_size: int = 0) -> Evidence:
    """Return what a run of these steps leaves."""
    judge = steps.new_judge()
    judge.begin(*steps.initial)
    recorder = Recorder(judge, None)
    for pair in steps.pairs:
        recorder.take(pair)
    recorder.record.batch_sizes = [batch_size] if batch_size else []
    names = match_names(steps.torch.tensors, steps.paddle.tensors, WeightsSection())
    initial = {"torch": steps.initial[0], "paddle": steps.initial[1]}
    return Evidence(names, steps.torch, steps.paddle, recorder.record, initial, findings)


def causes(
    found: Evidence, located: Optional[Located] = None, failure: Optional[Comparison] = None
) -> dict[str, Cause]:
    """Return the causes of the first failure by code, most likely first."""
    failure = failure or found.record.first_failure()
    assert failure is not None
    return {cause.code: cause for cause in explain(found, failure, located)}


def failed(kind: str, name: str = "fc.weight", reason: str = "differs", step: int = 0, **counts: int) -> Comparison:
    measures = Measures(1, max_abs=1.0, reference=1.0, candidate=2.0, outside=1, **counts)
    return Comparison(step, kind, name, name, False, measures=measures, reason=reason)


def declared(code: str, confidence: float, kind: str, matters: bool = True, category: Category = Category.FORWARD) -> Finding:
    return Finding(Cause(category, code, confidence, "declared", "mend it"), kind, "fc", "fc", matters)


def with_losses(steps: Steps, torch: Sequence[float], paddle: Sequence[float]) -> Steps:
    steps.pairs = [
        replace(
            pair,
            reference=replace(pair.reference, loss=np.array(ours, np.float32)),
            candidate=replace(pair.candidate, loss=np.array(theirs, np.float32)),
        )
        for pair, ours, theirs in zip(steps.pairs, torch, paddle)
    ]
    return steps


def scaled(steps: Steps, kind: str, name: str, factor: float, step: int = 0) -> Steps:
    steps.change(step, kind, name, steps.of(step, kind, name) * np.float32(factor))
    return steps


def test_what_is_fitted_to_an_update_stands_behind_what_both_sides_declare() -> None:
    steps = train("AdamW", DECAY, NO_DECAY)
    (alone,) = causes(evidence(steps)).values()
    assert alone.code == "no_decay"
    found = causes(evidence(steps, declared("beta1", 0.9, "optimizer_state")))
    assert list(found) == ["beta1", "no_decay"]
    assert found["no_decay"].confidence == pytest.approx(0.9 * alone.confidence)
    unsure = causes(evidence(steps, declared("beta1", 0.89, "optimizer_state")))
    assert unsure["no_decay"] == alone
    same = Finding(replace(alone, confidence=0.91, evidence="declared"), "parameter", "fc", "fc")
    assert causes(evidence(steps, same)) == {"no_decay": alone}


def test_what_is_fitted_to_gradients_keeps_its_confidence_beside_what_is_declared() -> None:
    steps = scaled(train("AdamW"), "gradient", "fc.weight", 2.0)
    (alone,) = causes(evidence(steps)).values()
    assert causes(evidence(steps, declared("dropout", 0.95, "activation")))["gradient_scale"] == alone


@pytest.mark.parametrize(
    ("kind", "shown", "counts"),
    [
        ("activation", "gradient", 1.0),
        ("gradient", "gradient", 1.0),
        ("optimizer_state", "gradient", 0.5),
        ("parameter", "optimizer_state", 0.5),
        ("lr", "parameter", 1.0),
        ("parameter", "batch", 1.0),
    ],
)
def test_a_declared_difference_that_shows_only_after_what_failed_counts_half(kind: str, shown: str, counts: float) -> None:
    found = evidence(train("AdamW", DECAY, NO_DECAY), declared("setting", 0.8, kind))
    assert causes(found, failure=failed(shown))["setting"].confidence == pytest.approx(0.8 * counts)


def test_a_declared_difference_that_cannot_matter_is_no_cause() -> None:
    found = evidence(train("AdamW", DECAY, NO_DECAY), declared("dropout", 0.95, "activation", matters=False))
    assert "dropout" not in causes(found)


@pytest.mark.parametrize("kind", ["loss", "gradient", "activation", "parameter"])
def test_a_layer_that_paddle_computes_otherwise_is_a_cause_in_the_forward_and_backward_pass_alone(kind: str) -> None:
    found = evidence(train("AdamW", DECAY, NO_DECAY), declared("layer_difference", 0.6, "activation", matters=False))
    assert ("layer_difference" in causes(found, failure=failed(kind))) == (kind != "parameter")


def test_something_is_always_said() -> None:
    found = causes(evidence(train("AdamW")), failure=failed("activation", reason="1 of 8 out"))
    (cause,) = found.values()
    assert (cause.code, cause.confidence) == ("forward_differs", 0.3)
    assert "activation fc.weight at step 0: 1 of 8 out" in cause.evidence


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("loss", "loss"),
        ("gradient", "gradient"),
        ("initial_parameter", "initial_weights"),
        ("parameter", "state"),
        ("buffer", "state"),
    ],
)
def test_what_is_not_finite_is_named_by_its_kind_and_its_side(kind: str, code: str) -> None:
    found = evidence(train("AdamW"))
    both = failed(kind, reason="not finite", reference_nonfinite=1, candidate_nonfinite=1)
    torch, paddle = (failed(kind, reason="not finite", **{side: 2}) for side in ("reference_nonfinite", "candidate_nonfinite"))
    (cause,) = causes(found, failure=both).values()
    assert (cause.category, cause.code, cause.confidence) == (Category.NONFINITE, code, 0.99)
    assert cause.evidence == "not finite" and cause.fix.startswith("both sides break down alike")
    assert "on the torch side alone" in causes(found, failure=torch)[code].fix
    assert "on the paddle side alone" in causes(found, failure=paddle)[code].fix


def test_a_batch_that_was_changed_is_told() -> None:
    (cause,) = causes(evidence(train("AdamW")), failure=failed("batch", reason="other digest")).values()
    assert (cause.category, cause.code, cause.evidence) == (Category.DATA, "batch_changed", "other digest")


def test_initial_weights_are_explained_from_what_both_sides_started_from() -> None:
    steps = train("AdamW")
    torch, paddle = steps.initial
    steps.initial = (torch, {**paddle, "fc.bias": paddle["fc.bias"] * np.float32(3.0)})
    found = causes(evidence(steps), failure=failed("initial_parameter", "fc.bias"))
    assert any("fc.bias" in cause.evidence and "3" in cause.evidence for cause in found.values()), found


def test_rates_are_compared_between_the_groups_that_hold_the_same_parameters() -> None:
    steps = train("AdamW")
    groups = [GroupSpec((name,), {}) for name in SHAPES]
    steps.torch = with_optimizer(steps.torch, groups=tuple(groups))
    steps.paddle = with_optimizer(steps.paddle, groups=(groups[1], groups[2], groups[0]))
    steps.pairs = [
        replace(
            pair,
            reference=replace(pair.reference, lr=[0.1, 0.2, 0.4]),
            candidate=replace(pair.candidate, lr=[0.2, 0.4, 0.3]),
        )
        for pair in steps.pairs
    ]
    (cause,) = causes(evidence(steps)).values()
    assert cause.code == "group_multiplier" and "paddle's group 2 has 3 times torch's rate" in cause.evidence


def test_a_loss_is_explained_by_its_ratio_and_the_batch_size_at_the_first_step_alone() -> None:
    found = evidence(with_losses(train("SGD"), (1.0, 2.0, 3.0), (8.0, 16.0, 24.0)), batch_size=8)
    (cause,) = causes(found).values()
    assert (cause.code, cause.category) == ("reduction", Category.LOSS) and "the batch has 8 samples" in cause.evidence
    later = causes(found, failure=failed("loss", "loss", step=1))
    assert list(later) == ["forward_differs"]


def test_a_loss_of_a_batch_without_samples_to_count_is_explained_all_the_same() -> None:
    found = evidence(with_losses(train("SGD"), (1.0, 2.0, 3.0), (8.0, 16.0, 24.0)))
    (cause,) = causes(found).values()
    assert cause.code == "reduction" and "samples" not in cause.evidence


def test_a_loss_that_differs_after_an_update_in_the_same_step_is_not_explained_by_its_ratio() -> None:
    found = evidence(with_losses(train("SGD"), (1.0, 2.0, 3.0), (8.0, 16.0, 24.0)), batch_size=8)
    located = Located(failed("gradient", "fc"), "fc", "fc", backward=True, updated="fc")
    assert "reduction" not in causes(found, located)


def test_a_scaled_loss_is_told_from_scaled_gradients_by_the_losses_of_that_step() -> None:
    steps = with_losses(train("SGD"), (1.0, 2.0, 3.0), (1.0, 6.0, 3.0))
    for name in SHAPES:
        scaled(steps, "gradient", name, 3.0, step=1)
    with_loss = causes(evidence(steps), failure=failed("gradient", step=1))
    without = causes(evidence(with_losses(steps, (1.0, 2.0, 3.0), (1.0, 2.0, 3.0))), failure=failed("gradient", step=1))
    assert list(with_loss) == ["reduction"] and "reduction" not in without
    assert next(iter(without)) == "missing_division"


def test_after_an_update_in_the_step_the_gradients_of_what_was_updated_count_alone() -> None:
    steps = scaled(scaled(train("SGD"), "gradient", "fc.weight", 2.0), "gradient", "out.weight", 5.0)
    item = failed("gradient", "out")
    inside = causes(evidence(steps), Located(item, "out", "out", backward=True, updated="out.0"))
    assert "paddle = 5 x torch for all 1 gradient" in inside["gradient_scale"].evidence
    anywhere = causes(evidence(steps), Located(item, "out", "out", backward=True, updated=""))
    assert "fc.weight x 2, out.weight x 5" in anywhere["scaled_by_parameter"].evidence


def clipped(torch: float, paddle: float) -> Steps:
    def by(limit: float) -> Any:
        def clip(gradients: Arrays) -> Arrays:
            norm = float(np.sqrt(sum(float(np.sum(np.square(g.astype(np.float64)))) for g in gradients.values())))
            return {name: (g * min(1.0, limit / norm)).astype(g.dtype) for name, g in gradients.items()}

        return clip

    return train("SGD", clips=(by(torch), by(paddle)))


def test_gradients_that_differ_as_used_alone_are_explained_by_clipping_alone() -> None:
    steps = clipped(1e9, 1.0)
    found = evidence(steps)
    assert AS_USED in (found.record.first_failure() or failed("")).reason
    (cause,) = causes(found).values()
    assert cause.code == "clip_added" and "after_backward" not in cause.evidence
    steps.torch = replace(steps.torch, has_after_backward=True)
    (idle,) = causes(evidence(steps)).values()
    assert idle.confidence == cause.confidence and "was not reached in this step" in idle.fix
    assert idle.evidence == f"{cause.evidence}; torch has an after_backward, which left these gradients as they were"


def test_a_clip_of_torchs_that_acted_is_not_called_idle() -> None:
    steps = clipped(2.0, 1.0)
    steps.torch = replace(steps.torch, has_after_backward=True)
    found = causes(evidence(steps))
    assert "clip_added" not in found and not any("was not reached" in cause.fix for cause in found.values())


def test_a_clip_by_each_groups_norm_is_told_from_a_clip_of_some_parameters_by_paddles_groups() -> None:
    small, others = ("fc.weight",), ("fc.bias", "out.weight")

    def clip(gradients: Arrays, names: Sequence[str]) -> Arrays:
        norm = float(np.sqrt(sum(float(np.sum(np.square(gradients[name].astype(np.float64)))) for name in names)))
        return {name: (gradients[name] * min(1.0, 5.0 / norm)).astype(np.float32) for name in names}

    def whole(gradients: Arrays) -> Arrays:
        return clip(gradients, tuple(SHAPES))

    def by_group(gradients: Arrays) -> Arrays:
        return clip(gradients, others) | clip(gradients, small)

    steps = train("SGD", sizes={"fc.weight": 0.1}, clips=(whole, by_group))
    as_used = failed("gradient", reason=f"{AS_USED}: differs")
    assert "per_group" not in causes(evidence(steps), failure=as_used)
    steps.paddle = with_optimizer(steps.paddle, groups=(GroupSpec(small, {}), GroupSpec(others, {})))
    for pair in steps.pairs:
        pair.candidate.lr.append(pair.candidate.lr[0])
    assert next(iter(causes(evidence(steps), failure=as_used))) == "per_group"


LOG_SHARES = np.log(np.sum(np.exp(LOGITS.astype(np.float64)), axis=1, keepdims=True)) - LOGITS


def cross_entropy(reduce: Any) -> float:
    return float(reduce(LOG_SHARES[np.arange(4), LABELS]))


def at_loss(torch: float, paddle: float, **more: Any) -> Located:
    given = {"<model>": LOGITS}
    site = LossSite(given, given, {"labels": LABELS}, (np.array(torch, np.float32), np.array(paddle, np.float32)))
    return Located(None, loss_site=site, **more)


def test_a_loss_whose_formula_is_found_explains_what_its_ratio_and_its_gradients_show() -> None:
    torch, paddle = cross_entropy(np.mean), cross_entropy(np.sum)
    steps = with_losses(train("SGD"), [torch] * 3, [paddle] * 3)
    for name in SHAPES:
        scaled(steps, "gradient", name, 3.0)
    failure = failed("loss", "loss")
    alone = causes(evidence(steps), failure=failure)
    settled = causes(evidence(steps), at_loss(torch, paddle), failure)
    first = next(iter(settled.values()))
    assert first.confidence > 0.9 and first.category is Category.LOSS
    assert "the sum of the cross-entropy" in settled["reduction"].evidence
    assert settled["gradient_scale"].confidence == pytest.approx(0.5 * alone["gradient_scale"].confidence)
    assert settled["missing_division"] == alone["missing_division"]


def test_beside_a_loss_whose_formula_is_found_its_ratio_counts_half() -> None:
    torch = cross_entropy(np.mean)
    paddle = 0.9 * torch + 0.1 * float(np.mean(LOG_SHARES))
    steps, failure = with_losses(train("SGD"), [torch] * 3, [paddle] * 3), failed("loss", "loss")
    alone, settled = causes(evidence(steps), failure=failure), causes(evidence(steps), at_loss(torch, paddle), failure)
    assert next(iter(settled)) == "label_smoothing" and settled["label_smoothing"].confidence > 0.9
    assert settled["scaled"].confidence == pytest.approx(0.5 * alone["scaled"].confidence)


def test_a_loss_of_no_known_formula_leaves_its_ratio_and_halves_what_gradients_show() -> None:
    steps = with_losses(train("SGD"), [0.7] * 3, [7.0] * 3)
    scaled(steps, "gradient", "fc.weight", 3.0)
    failure = failed("loss", "loss")
    alone, found = causes(evidence(steps), failure=failure), causes(evidence(steps), at_loss(0.7, 7.0), failure)
    assert found["reduction"] == alone["reduction"] and "loss_function" in found
    assert found["gradient_scale"].confidence == pytest.approx(0.5 * alone["gradient_scale"].confidence)


def test_a_side_that_draws_random_numbers_leads_unless_a_dropout_is_declared() -> None:
    steps = with_losses(train("SGD"), [0.7] * 3, [0.9] * 3)
    dropout = declared("dropout", 0.9, "activation", category=Category.RANDOMNESS)
    idle = declared("dropout", 0.9, "activation", False, Category.RANDOMNESS)
    for located in (
        at_loss(0.7, 0.9, random_sides=("paddle",)),
        Located(None, random_sides=("paddle",)),
        Located(failed("activation", "fc"), "fc", "fc", random_sides=("paddle",)),
    ):
        code = "changes_when_repeated"
        assert next(iter(causes(evidence(steps), located))) == code
        assert causes(evidence(steps, dropout), located)[code].confidence == 0.5
        assert causes(evidence(steps, idle), located)[code].confidence == 0.96
        assert code not in causes(evidence(steps), replace(located, random_sides=()))


def located_at(torch: np.ndarray, paddle: np.ndarray, **more: Any) -> Located:
    path = more.pop("module", "fc")
    return Located(failed("activation", path), path, path, outputs=(torch, paddle), last_good="embed", **more)


def with_modules(steps: Steps, *paths: str) -> Steps:
    def add(side: Declaration) -> Declaration:
        return replace(side, modules=(*side.modules, *(ModuleSpec(path, "Linear", "Linear", False) for path in paths)))

    steps.torch, steps.paddle = add(steps.torch), add(steps.paddle)
    return steps


OUTPUT = np.random.default_rng(4).standard_normal((8, 6)).astype(np.float32)


def test_a_modules_output_explains_a_failure_of_the_loss_without_its_ratio() -> None:
    steps = with_losses(with_modules(train("SGD"), "fc"), (1.0, 2.0, 3.0), (8.0, 16.0, 24.0))
    found = causes(evidence(steps, batch_size=8), located_at(OUTPUT, OUTPUT * np.float32(2.0)))
    assert found and "reduction" not in found
    assert all(cause.category is Category.FORWARD for cause in found.values()) and "forward_differs" not in found
    (unknown,) = causes(evidence(steps), located_at(OUTPUT, OUTPUT * np.float32(2.0), module="other")).values()
    assert unknown.code == "forward_differs"


def test_a_modules_function_is_told_by_what_went_into_it() -> None:
    steps = with_modules(train("SGD"), "fc")
    given = 4 * np.random.default_rng(5).standard_normal((20, 12)).astype(np.float32)
    located = located_at(np.tanh(given), np.maximum(given, 0), inputs=(given, given))
    first = next(iter(causes(evidence(steps), located, failed("loss", "loss")).values()))
    assert "tanh" in first.evidence and "relu" in first.evidence
    unknown = causes(evidence(steps), replace(located, inputs=None), failed("loss", "loss")).values()
    assert not any("tanh" in cause.evidence for cause in unknown)


def test_what_goes_into_the_first_module_is_the_data_and_what_goes_into_a_later_one_is_not() -> None:
    steps = with_modules(train("SGD"), "fc")
    between = located_at(OUTPUT, OUTPUT * np.float32(2.0), container="", input_agrees=False)
    later = causes(evidence(steps), between, failed("loss", "loss"))
    first = causes(evidence(steps), replace(between, last_good=""), failed("loss", "loss"))
    assert {cause.category for cause in later.values()} == {Category.FORWARD}
    assert {cause.category for cause in first.values()} == {Category.DATA}
    nothing = replace(between, last_good="", outputs=None)
    assert list(causes(evidence(steps), nothing, failed("loss", "loss"))) == ["forward_differs"]
    inside = replace(between, last_good="", container=None)
    assert {cause.category for cause in causes(evidence(steps), inside, failed("loss", "loss")).values()} == {Category.FORWARD}


def test_another_argument_of_a_call_is_held_against_a_mask_and_the_first_is_not() -> None:
    ours = np.zeros((2, 4), bool)
    theirs = ours.copy()
    theirs[0, 3] = True
    call = Comparison(0, "activation", "fc@input:mask", "fc@input:mask", False, reason="differs")
    located = replace(located_at(ours, theirs, container="", input_agrees=False), first=call)
    steps = train("SGD")
    assert located.argument == "mask"
    found = causes(evidence(steps), located, failed("loss", "loss"))
    assert next(iter(found)) == "mask" and "what fc is given as mask is a mask that marks 0 of 8" in found["mask"].evidence
    plain = replace(located, first=failed("activation", "fc@input"))
    assert "mask" not in causes(evidence(steps), plain, failed("loss", "loss"))


def test_a_gradient_that_stops_on_one_side_is_told_unless_the_sides_train_other_parameters() -> None:
    steps = train("SGD")
    located = Located(failed("gradient", "fc"), "fc", "fc", backward=True, silent="paddle")
    assert next(iter(causes(evidence(steps), located, failed("gradient")))) == "detached"
    frozen = tuple(replace(spec, trainable=spec.name != "fc.bias") for spec in steps.paddle.tensors)
    steps.paddle = replace(steps.paddle, tensors=frozen)
    assert "detached" not in causes(evidence(steps), located, failed("gradient"))


def test_a_modules_gradient_and_the_parameters_gradients_are_both_looked_at() -> None:
    steps = with_modules(scaled(train("SGD"), "gradient", "fc.weight", 2.0), "fc")
    rows = OUTPUT * np.linspace(1, 3, 8, dtype=np.float32)[:, None]
    located = Located(failed("gradient", "fc"), "fc", "fc", backward=True, outputs=(OUTPUT, rows))
    assert set(causes(evidence(steps), located)) == {"row_scale", "gradient_scale"}
    silent = replace(located, silent="paddle")
    assert set(causes(evidence(steps), silent)) == {"detached", "gradient_scale"}


def own_code(moves: tuple[float, float], kind: str = "buffer", first: int = 0) -> Steps:
    """Return steps in which each side moves ``bn.running_mean`` by its own factor of one input from step ``first`` on."""
    steps = train("SGD")
    random = np.random.default_rng(9)
    values = [steps.initial[0]["bn.running_mean"].copy() for _ in moves]
    for pair in steps.pairs:
        input_ = random.standard_normal(12)
        for side, (result, factor) in enumerate(zip((pair.reference, pair.candidate), moves)):
            share = factor if pair.step >= first else moves[0]
            values[side] = ((1.0 - share) * values[side] + share * input_).astype(np.float32)
            result.tensors["buffer"]["bn.running_mean"] = values[side].copy()
    return steps


def test_a_buffer_that_paddle_leaves_is_told_from_the_steps_since_it_failed() -> None:
    found = causes(evidence(own_code((0.1, 0.0))))
    assert next(iter(found)) == "not_updated" and "bn.running_mean" in found["not_updated"].evidence
    late = evidence(own_code((0.1, 0.0), first=1))
    failure = late.record.first_failure()
    assert failure is not None and (failure.step, failure.name) == (1, "bn.running_mean")
    assert "in 2 steps" in causes(late)["not_updated"].evidence


def test_a_parameter_that_no_optimizer_holds_was_moved_by_the_script() -> None:
    steps = train("SGD")
    held = (GroupSpec(("fc.weight", "out.weight"), {}),)
    failure = failed("parameter", "fc.bias")
    assert "moved_by_script" not in causes(evidence(steps), failure=failure)
    steps.torch = with_optimizer(steps.torch, groups=held)
    assert "moved_by_script" not in causes(evidence(steps), failure=failure)
    steps.paddle = with_optimizer(steps.paddle, groups=held)
    (cause,) = causes(evidence(steps), failure=failure).values()
    assert cause.code == "moved_by_script" and "parameter fc.bias at step 0: differs" in cause.evidence
    assert "moved_by_script" not in causes(evidence(steps), failure=failed("parameter", "out.weight"))


def without_an_optimizer(steps: Steps, name: str) -> Steps:
    """Return steps in which no optimizer holds a parameter, and paddle's script leaves it."""
    held = (GroupSpec(tuple(other for other in SHAPES if other != name), {}),)
    steps.torch, steps.paddle = (with_optimizer(side, groups=held) for side in (steps.torch, steps.paddle))
    for pair in steps.pairs:
        steps.change(pair.step, "parameter", name, steps.initial[1][name])
    return steps


def test_a_parameter_that_torchs_script_moves_and_paddles_leaves_is_not_called_frozen() -> None:
    steps = train("SGD")
    for pair in steps.pairs:
        steps.change(pair.step, "parameter", "fc.bias", steps.initial[1]["fc.bias"])
    assert any(cause.category is Category.FROZEN_PARAMETER for cause in causes(evidence(steps)).values())
    steps = without_an_optimizer(train("SGD"), "fc.bias")
    found = causes(evidence(steps), failure=failed("parameter", "fc.bias"))
    assert found and not any(cause.category is Category.FROZEN_PARAMETER for cause in found.values())


def test_beside_a_buffer_that_paddle_leaves_no_parameter_is_listed() -> None:
    steps = without_an_optimizer(own_code((0.1, 0.0)), "fc.bias")
    found = causes(evidence(steps), failure=failed("buffer", "bn.running_mean"))
    assert "bn.running_mean: torch changes it" in found["not_updated"].evidence
