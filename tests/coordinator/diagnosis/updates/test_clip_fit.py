"""How each side clips is read off its own raw and used gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from stepalign.coordinator.comparison.clip_rules import predict_clip
from stepalign.coordinator.diagnosis.cause import Cause
from stepalign.coordinator.diagnosis.updates.clip_fit import clip_pattern, explain_clipping
from stepalign.coordinator.diagnosis.updates.update_trace import ParameterTrace, UpdateRecord, sample_trace

Gradients = dict[str, np.ndarray]
Clip = Callable[[Gradients], Gradients]
SHAPES = {"a.weight": (30, 20), "a.bias": (30,), "b.weight": (8, 30), "b.bias": (8,)}
GROUPS = (("a.weight", "b.weight"), ("a.bias", "b.bias"))


def clip(kind: str, groups: tuple[tuple[str, ...], ...] = (), **params: float) -> Clip:
    return lambda gradients: predict_clip(kind, params, gradients, groups)


def some(names: tuple[str, ...], limit: float) -> Clip:
    def apply(gradients: Gradients) -> Gradients:
        part = predict_clip("ClipGradByGlobalNorm", {"max_norm": limit}, {name: gradients[name] for name in names})
        return {**gradients, **part}

    return apply


NOTHING: Clip = dict
TORCH = clip("clip_grad_norm_", max_norm=1.0)


def traces(
    torch: Clip, paddle: Clip, dtype: str = "float32", steps: int = 3, size: float = 1.0, silent: tuple[str, ...] = ()
) -> list[ParameterTrace]:
    """Return traces whose gradient norms lie well above 1; paddle's raw gradients are torch's with rounding noise, those of
    ``silent`` parameters zero.
    """
    rng = np.random.default_rng(4)
    records: dict[str, tuple[list[UpdateRecord], list[UpdateRecord]]] = {name: ([], []) for name in SHAPES}
    for step in range(steps):
        scale = size * (1.0 + step)
        exact = {name: scale * (name not in silent) * rng.normal(size=shape) for name, shape in SHAPES.items()}
        noisy = {name: value * (1.0 + 1e-7 * rng.normal(size=value.shape)) for name, value in exact.items()}
        for side, (raw, rule) in enumerate(((exact, torch), (noisy, paddle))):
            kept = {name: value.astype(dtype) for name, value in raw.items()}
            used = rule({name: value.astype(np.float64) for name, value in kept.items()})
            for name, value in kept.items():
                zeros = np.zeros(value.shape, dtype)
                records[name][side].append(
                    UpdateRecord(step, 0.1, zeros, value, used[name].astype(dtype), {}, zeros, {})
                )
    return [ParameterTrace(name, name, dtype, tuple(t), tuple(p)) for name, (t, p) in records.items()]


def codes(causes: list[Cause]) -> list[str]:
    return [f"{cause.category.value}/{cause.code}" for cause in causes]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("torch", "paddle", "code", "says"),
    [
        (TORCH, clip("ClipGradByGlobalNorm", max_norm=1.0), "", ""),
        (clip("clip_value", max=0.5), clip("clip_value", max=0.5), "", ""),
        (NOTHING, NOTHING, "", ""),
        (TORCH, NOTHING, "missing", "paddle does not clip"),
        (NOTHING, clip("ClipGradByGlobalNorm", max_norm=1.0), "clip_added", "torch does not clip"),
        (TORCH, clip("ClipGradByGlobalNorm", max_norm=5.0), "max_norm", "limit 5 "),
        (TORCH, clip("ClipGradByNorm", max_norm=1.0), "per_tensor", "each tensor"),
        (TORCH, clip("ClipGradByGlobalNorm", GROUPS, max_norm=1.0), "per_group", "group"),
        (TORCH, clip("clip_value", max=1.0), "by_value", "each element"),
        (TORCH, some(("a.weight", "b.weight"), 1.0), "only_some_parameters", "a.weight, b.weight"),
        (TORCH, some(("a.weight",), 1.0), "only_some_parameters", "(a.weight)"),
        (some(("a.weight",), 1.0), some(("b.weight",), 1.0), "only_some_parameters", "(b.weight)"),
        (some(("a.weight",), 1.0), some(("a.weight", "b.weight"), 3.0), "only_some_parameters", "(a.weight, b.weight)"),
        (TORCH, clip("clip_grad_norm_", max_norm=1.0, norm_type=float("inf")), "norm_type", "Linf"),
        (TORCH, clip("clip_grad_norm_", max_norm=1.0, norm_type=1.0), "norm_type", "L1"),
        (clip("clip_value", max=0.5), clip("clip_value", max=0.25), "clip_value", "limit 0.25"),
        (clip("ClipGradByNorm", max_norm=1.0), clip("ClipGradByGlobalNorm", max_norm=1.0), "by_global_norm", "global"),
    ],
)
def test_a_clipping_mistake_is_named(torch: Clip, paddle: Clip, code: str, says: str, dtype: str) -> None:
    causes = explain_clipping(traces(torch, paddle, dtype))
    assert codes(causes) == ([f"gradient_clipping/{code}"] if code else []), causes
    if causes:
        assert says in causes[0].evidence
        assert causes[0].fix


def test_declared_groups_are_recognised_where_only_one_is_above_the_limit() -> None:
    wide = clip("ClipGradByGlobalNorm", GROUPS, max_norm=8.0)
    (cause,) = explain_clipping(traces(clip("clip_grad_norm_", max_norm=8.0), wide, steps=1), GROUPS)
    assert cause.code == "per_group"


def test_declared_groups_of_which_one_stays_above_the_limit_are_not_what_clips() -> None:
    (cause,) = explain_clipping(traces(TORCH, some(GROUPS[0], 1.0)), GROUPS)
    assert cause.code == "only_some_parameters"


def test_some_tensors_that_are_clipped_one_by_one_beside_others_above_the_limit_are_no_groups() -> None:
    def two(gradients: Gradients) -> Gradients:
        return {**gradients, **predict_clip("ClipGradByNorm", {"max_norm": 1.0}, {name: gradients[name] for name in GROUPS[0]})}

    (cause,) = explain_clipping(traces(TORCH, two, steps=1))
    assert cause.code == "changed_before_update"


def scale(**factors: float) -> Clip:
    """Return what multiplies gradients: those named, with ``_`` for the dot, and all others by ``every``."""
    every = factors.get("every", 1.0)
    return lambda gradients: {name: factors.get(name.replace(".", "_"), every) * value for name, value in gradients.items()}


def test_a_constant_factor_on_all_gradients_is_scaling_not_clipping() -> None:
    (cause,) = explain_clipping(traces(NOTHING, scale(every=0.5)))
    assert codes([cause]) == ["gradient_accumulation/scaled_after_backward"]
    assert "paddle / raw 0.5" in cause.evidence


def test_two_constant_factors_are_scaling_on_both_sides() -> None:
    assert explain_clipping(traces(scale(every=0.5), scale(every=0.5))) == []
    (cause,) = explain_clipping(traces(scale(every=0.5), scale(every=0.25)))
    assert codes([cause]) == ["gradient_accumulation/scaled_after_backward"]


def test_gradients_of_one_size_at_all_steps_are_clipped_by_one_factor_and_that_is_no_scaling() -> None:
    whole = traces(NOTHING, TORCH, steps=1)
    again = [
        replace(
            trace,
            torch=tuple(replace(trace.torch[0], step=step) for step in range(3)),
            paddle=tuple(replace(trace.paddle[0], step=step) for step in range(3)),
        )
        for trace in whole
    ]
    (cause,) = explain_clipping(again)
    assert cause.code == "clip_added"


def test_torchs_epsilon_is_no_other_limit_of_tiny_gradients() -> None:
    ours, theirs = clip("clip_grad_norm_", max_norm=1e-5), clip("ClipGradByGlobalNorm", max_norm=1e-5)
    assert explain_clipping(traces(ours, theirs, size=2e-6)) == []


def test_a_parameter_whose_gradient_is_zero_is_clipped_with_the_others() -> None:
    (cause,) = explain_clipping(traces(TORCH, NOTHING, silent=("a.bias",)))
    assert cause.code == "missing" and "torch clips by the global norm, limit 1 " in cause.evidence


def test_a_clip_of_another_kind_at_some_steps_is_left_unexplained() -> None:
    calls: list[None] = []

    def alternate(gradients: Gradients) -> Gradients:
        calls.append(None)
        return (clip("clip_value", max=0.5) if len(calls) % 2 else TORCH)(gradients)

    assert explain_clipping(traces(NOTHING, alternate)) == []


def test_one_step_tells_another_norm_from_another_limit() -> None:
    paddle = clip("clip_grad_norm_", max_norm=1.0, norm_type=1.0)
    (cause,) = explain_clipping(traces(TORCH, paddle, steps=1))
    assert cause.code == "norm_type"
    assert cause.evidence.count("at an L2 norm of") == 2  # both sides' norm is of one order, whatever each clips by


def test_gradients_below_the_limit_show_no_clipping() -> None:
    assert clip_pattern(traces(TORCH, NOTHING, size=1e-3), "torch") is not None
    assert explain_clipping(traces(TORCH, NOTHING, size=1e-3)) == []


def test_samples_lead_to_the_same_cause_as_whole_gradients() -> None:
    whole = traces(TORCH, clip("ClipGradByGlobalNorm", max_norm=2.0))
    (cause,) = explain_clipping([sample_trace(trace, 50) for trace in whole])
    assert cause.code == "max_norm"
    assert "limit 2 " in cause.evidence


def test_gradients_that_follow_no_clipping_are_left_unexplained() -> None:
    rng = np.random.default_rng(0)

    def spoil(gradients: Gradients) -> Gradients:
        return {name: value * rng.random(value.shape) for name, value in gradients.items()}

    assert explain_clipping(traces(TORCH, spoil)) == []


@pytest.mark.parametrize(
    ("factor", "names"), [(1.5, ["a.bias"]), (3.0, ["a.bias", "b.weight"]), (2.0, ["a.weight", "a.bias", "b.weight"])]
)
def test_a_gradient_that_grows_is_no_clip_and_is_named_with_its_factor(factor: float, names: list[str]) -> None:
    def grow(gradients: Gradients) -> Gradients:
        return {name: factor * value if name in names else value for name, value in gradients.items()}

    (cause,) = explain_clipping(traces(NOTHING, grow, steps=1))
    assert codes([cause]) == ["gradient_clipping/changed_before_update"]
    assert f"{', '.join(names)} by {factor:g} times" in cause.evidence


def test_gradients_that_grow_all_by_one_factor_at_a_single_step_are_named_too() -> None:
    (cause,) = explain_clipping(traces(NOTHING, scale(every=1.5), steps=1))
    assert codes([cause]) == ["gradient_clipping/changed_before_update"]
    assert "a.weight, a.bias, b.weight, ... by 1.5 times" in cause.evidence


def test_what_shrinks_beside_what_grows_is_named_with_the_first_step() -> None:
    (cause,) = explain_clipping(traces(NOTHING, scale(a_bias=0.5, b_weight=3.0)))
    assert codes([cause]) == ["gradient_clipping/changed_before_update"]
    assert cause.evidence.startswith("at step 0 ")
    assert "a.bias by 0.5 times" in cause.evidence and "b.weight by 3 times" in cause.evidence


def test_a_clip_that_acts_at_some_updates_only_is_named_with_the_first_step_that_it_leaves_out() -> None:
    calls: list[None] = []

    def every_other(gradients: Gradients) -> Gradients:
        calls.append(None)
        return TORCH(gradients) if len(calls) % 2 else dict(gradients)

    (cause,) = explain_clipping(traces(TORCH, every_other))
    assert codes([cause]) == ["gradient_clipping/other_steps"]
    assert "at step 1 torch clips and paddle does not" in cause.evidence
    calls.clear()
    (cause,) = explain_clipping(traces(every_other, TORCH))
    assert "at step 1 paddle clips and torch does not" in cause.evidence
