"""Which cause explains losses that differ."""

from __future__ import annotations

import math

import pytest

from stepalign.coordinator.diagnosis.numbers import explain_loss

LOSSES = [2.31, 2.12, 1.95, 1.71, 1.66, 1.40]
SIZES = [8] * 6


def first(torch: list[float], paddle: list[float], **known: object) -> str:
    return explain_loss(torch, paddle, SIZES, **known)[0].code  # type: ignore[arg-type]


def test_equal_first_losses_have_no_cause() -> None:
    assert explain_loss(LOSSES, [*LOSSES[:2], 9.0, 9.0, 9.0, 9.0], SIZES) == []
    assert explain_loss([], [], []) == []


@pytest.mark.parametrize("factor", [8.0, 1 / 8, 8 * 128, 64.0])
def test_a_whole_multiple_of_the_batch_is_a_reduction(factor: float) -> None:
    causes = explain_loss(LOSSES, [loss * factor for loss in LOSSES], SIZES)
    assert causes[0].code == "reduction" and "8 samples" in causes[0].evidence and causes[0].confidence > 0.9


@pytest.mark.parametrize(("factor", "reduction"), [(8.0, "mean"), (1 / 8, "sum")])
def test_the_fix_of_a_reduction_is_torchs(factor: float, reduction: str) -> None:
    assert f"reduction='{reduction}'" in explain_loss(LOSSES, [loss * factor for loss in LOSSES], SIZES)[0].fix


def test_a_whole_ratio_that_is_no_multiple_of_the_batch_is_a_less_certain_reduction() -> None:
    always = explain_loss(LOSSES, [loss * 3.0 for loss in LOSSES], SIZES)[0]
    once = explain_loss(LOSSES, [LOSSES[0] * 3.0, 30.0, 44.0, 12.0, 9.0, 1.0], SIZES)[0]
    assert always.code == once.code == "reduction" and "samples" not in always.evidence
    assert 0.9 > always.confidence > once.confidence


@pytest.mark.parametrize("factor", [8.02, 1.001, -2.0])
def test_a_ratio_next_to_one_that_means_something_is_a_scale(factor: float) -> None:
    assert [cause.code for cause in explain_loss(LOSSES, [loss * factor for loss in LOSSES], SIZES)] == ["scaled"]


def test_a_ratio_of_two_steps_alone_is_no_law() -> None:
    assert explain_loss(LOSSES[:2], [loss * 1.37 for loss in LOSSES[:2]], SIZES) == []


def test_a_loss_of_zero_has_no_ratio() -> None:
    assert explain_loss([0.0, 1.0], [1.0, 0.5], SIZES) == []
    assert explain_loss([1.0, 0.5], [0.0, 1.0], SIZES) == []


def test_a_reduction_shows_at_the_first_step_though_the_runs_part_after_it() -> None:
    assert first(LOSSES, [LOSSES[0] * 8, 30.0, 44.0, 12.0, 9.0, 1.0]) == "reduction"
    assert "averages where torch sums" in explain_loss([LOSSES[0] * 8, 3.0], [LOSSES[0], 2.0], SIZES)[0].evidence


def test_a_constant_odd_ratio_is_a_scale_and_a_ratio_of_one_step_is_nothing() -> None:
    assert first(LOSSES, [loss * 1.37 for loss in LOSSES]) == "scaled"
    assert explain_loss(LOSSES, [LOSSES[0] * 1.37, 2.0, 1.4, 1.3, 2.2, 1.0], SIZES) == []


@pytest.mark.parametrize(("valid", "total"), [(4, 6), (37, 128)])
def test_a_mean_over_ignored_labels_is_named(valid: int, total: int) -> None:
    paddle = [loss * valid / total for loss in LOSSES]
    assert first(LOSSES, paddle, label_counts=[(valid, total)]) == "ignored_labels"
    assert first(paddle, LOSSES, label_counts=[(valid, total)]) == "ignored_labels"
    assert first(LOSSES, [loss * 1.00005 for loss in LOSSES], label_counts=[(total, total)]) == "scaled"


@pytest.mark.parametrize("amount", [0.1, 0.05, 0.2])
def test_label_smoothing_is_fitted_on_either_side(amount: float) -> None:
    uniform = [2.9, 2.8, 2.75, 2.7, 2.6, 2.6]
    smoothed = [(1 - amount) * loss + amount * other for loss, other in zip(LOSSES, uniform, strict=True)]
    for torch, paddle in ((LOSSES, smoothed), (smoothed, LOSSES)):
        causes = explain_loss(torch, paddle, SIZES, uniform_losses=uniform)
        assert causes[0].code == "label_smoothing" and f"s = {amount:g}" in causes[0].evidence


def test_a_cross_entropy_that_stops_at_64_is_softmax_clipping() -> None:
    assert first([3130.0, 2.0], [64.0, 2.0]) == "softmax_clipping"
    assert first([*LOSSES, 80.0], [*LOSSES, 64.0]) == "softmax_clipping"
    assert explain_loss([*LOSSES, 80.0], [*LOSSES, 30.0], [8] * 7) == []


def test_a_constant_above_the_loss_is_an_offset() -> None:
    causes = explain_loss(LOSSES, [loss + 0.05 for loss in LOSSES], SIZES)
    assert causes[0].code == "offset" and "paddle's loss is 0.05 above torch's" in causes[0].evidence
    (below,) = explain_loss(LOSSES, [loss - 0.05 for loss in LOSSES], SIZES)
    assert "torch's loss is 0.05 above paddle's" in below.evidence
    (rough,) = explain_loss(LOSSES, [loss + 0.05 + 1e-4 * (step % 2) for step, loss in enumerate(LOSSES)], SIZES)
    assert rough.code == "offset" and rough.confidence < causes[0].confidence


def test_what_stands_above_a_loss_that_does_not_move_may_as_well_be_a_factor() -> None:
    assert [cause.code for cause in explain_loss([2.0] * 6, [2.05] * 6, SIZES)] == ["scaled"]


def test_a_flipped_sign_is_named() -> None:
    assert first(LOSSES, [-loss for loss in LOSSES]) == "sign_flipped"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_on_one_side_is_named_with_its_step(bad: float) -> None:
    causes = explain_loss(LOSSES, [*LOSSES[:3], bad, bad, bad], SIZES)
    assert causes[0].category.value == "nonfinite" and "from step 3" in causes[0].evidence


def test_a_loss_that_is_not_finite_on_both_sides_alike_has_no_cause() -> None:
    assert explain_loss([math.nan, 1.0], [math.nan, 1.0], SIZES) == []


def test_unrelated_losses_have_no_cause() -> None:
    assert explain_loss(LOSSES, [2.6, 2.0, 2.05, 1.2, 1.9, 1.0], SIZES) == []
