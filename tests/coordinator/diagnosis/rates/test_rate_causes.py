"""Which law explains two sequences of rates, for short runs and long ones, and when none does."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from stepalign.coordinator.diagnosis.cause import Cause
from stepalign.coordinator.diagnosis.rates.rate_causes import explain_rates

Rate = Callable[[int], float]
LENGTHS = (10, 64, 5000)


def linear(peak: float, warmup: int, total: int) -> Rate:
    return lambda i: peak * (i / warmup if i < warmup else max(0.0, (total - i) / (total - warmup)))


def half_cosine(peak: float, warmup: int, total: int, cycles: float = 0.5) -> Rate:
    def rate(i: int) -> float:
        progress = (i - warmup) / (total - warmup)
        return peak * (i / warmup if i < warmup else max(0.0, 0.5 * (1 + math.cos(math.pi * 2 * cycles * progress))))

    return rate


def cosine(peak: float, period: int, floor: float = 0.0) -> Rate:
    return lambda i: floor + (peak - floor) * (1 + math.cos(math.pi * i / period)) / 2


def restarting(peak: float, period: int) -> Rate:
    return lambda i: peak * (1 + math.cos(math.pi * (i % period) / period)) / 2


def exponential(peak: float, factor: float) -> Rate:
    return lambda i: peak * factor**i


def steps(peak: float, size: int, factor: float) -> Rate:
    return lambda i: peak * factor ** (i // size)


def polynomial(peak: float, total: int, power: float, end: float = 0.0) -> Rate:
    return lambda i: (peak - end) * (1 - min(i, total) / total) ** power + end


def constant(value: float) -> Rate:
    return lambda i: value


def explain(torch: Rate, paddle: Rate, length: int) -> list[Cause]:
    return explain_rates([[torch(i)] for i in range(length)], [[paddle(i)] for i in range(length)], [(0, 0)])


CASES = [
    (linear(3e-5, 5, 3000), linear(3e-4, 5, 3000), "rate_scale"),
    (constant(0.1), constant(0.01), "rate_scale"),
    (cosine(0.1, 900), lambda i: 0.5 * cosine(0.1, 900)(i), "rate_scale"),
    (linear(3e-5, 5, 3000), lambda i: linear(3e-5, 5, 3000)(i + 1), "shifted"),
    (cosine(0.1, 300), lambda i: cosine(0.1, 300)(max(i - 1, 0)), "shifted"),
    (exponential(0.1, 0.95), lambda i: exponential(0.1, 0.95)(i + 1), "shifted"),
    (steps(0.5, 4, 0.3), lambda i: steps(0.5, 4, 0.3)(i + 1), "shifted"),
    (linear(3e-5, 4, 9000), linear(3e-5, 6, 9000), "warmup_length"),
    (half_cosine(1e-3, 3, 700), half_cosine(1e-3, 5, 700), "warmup_length"),
    (linear(3e-5, 4, 9000), polynomial(3e-5, 9000, 1.0), "warmup_missing"),
    (constant(1e-3), lambda i: 1e-3 * min(1.0, i / 6), "only_paddle_scheduled"),
    (cosine(1e-3, 800), half_cosine(1e-3, 4, 800), "warmup_added"),
    (lambda i: 1e-3 * min(1, 0.1 + 0.9 * i / 5), lambda i: 1e-3 * min(1, 0.3 + 0.7 * i / 5), "warmup_start"),
    (polynomial(0.01, 6000, 1.0), polynomial(0.01, 6000, 1.0, 1e-4), "floor"),
    (polynomial(0.01, 6000, 2.0), polynomial(0.01, 6000, 2.0, 1e-4), "floor"),
    (cosine(0.1, 700), cosine(0.1, 700, 1e-3), "floor"),
    (exponential(0.1, 0.98), lambda i: max(exponential(0.1, 0.98)(i), 0.088), "floor"),
    (exponential(0.1, 0.9), exponential(0.1, 0.95), "decay_factor"),
    (steps(0.1, 3, 0.9), steps(0.1, 3, 0.97), "decay_factor"),
    (steps(0.1, 3, 0.9), steps(0.1, 4, 0.9), "milestones"),
    (cosine(0.1, 700), cosine(0.1, 600), "decay_length"),
    (polynomial(0.1, 7000, 1.0), polynomial(0.1, 6000, 1.0), "decay_length"),
    (half_cosine(3e-5, 3, 700), half_cosine(3e-5, 3, 700, 1.0), "cosine_cycles"),
    (cosine(0.1, 700), lambda i: cosine(0.1, 700)(i // 4), "stepped_too_rarely"),
    (half_cosine(1e-4, 3, 5000), lambda i: half_cosine(1e-4, 3, 5000)(i // 3), "stepped_too_rarely"),
    (half_cosine(1e-4, 4, 12000), lambda i: half_cosine(1e-4, 4, 12000)(2 * i), "stepped_too_often"),
    (cosine(0.1, 700), constant(0.1), "not_scheduled"),
    (exponential(0.1, 0.99), constant(0.1), "not_scheduled"),
    (constant(0.1), exponential(0.1, 0.99), "only_paddle_scheduled"),
    (cosine(0.1, 7), restarting(0.1, 7), "restarts"),
    (restarting(0.1, 8), restarting(0.1, 6), "restarts"),
    (polynomial(0.1, 6000, 1.0), polynomial(0.1, 6000, 2.0), "power"),
]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("torch", "paddle", "code"), CASES, ids=[f"{code}-{i}" for i, (_, _, code) in enumerate(CASES)]
)
def test_the_first_cause_is_the_law_that_parts_the_schedules(torch: Rate, paddle: Rate, code: str, length: int) -> None:
    assert explain(torch, paddle, length)[0].code == code


@pytest.mark.parametrize("length", LENGTHS)
def test_a_warm_up_index_off_by_one_is_named_where_only_the_warm_up_differs(length: int) -> None:
    def torch(i: int) -> float:
        return 1e-3 * i / 5 if i < 5 else cosine(1e-3, 90)(i - 5)

    def paddle(i: int) -> float:
        return 1e-3 * (i + 1) / 5 if i < 4 else 1e-3 if i == 4 else torch(i)

    (cause, *_) = explain(torch, paddle, length)
    assert cause.code == "warmup_index" and "torch's rate of step i+1; after it both agree" in cause.evidence


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    "schedule", [linear(3e-5, 100, 2000), exponential(0.1, 0.9), constant(1e-3), restarting(0.1, 7)]
)
def test_equal_rates_up_to_rounding_have_no_cause(schedule: Rate, length: int) -> None:
    assert explain(schedule, lambda i: schedule(i) * (1 + 1e-13), length) == []


@pytest.mark.parametrize("length", LENGTHS)
def test_laws_that_do_not_predict_the_numbers_are_left_out(length: int) -> None:
    assert explain(exponential(0.1, 0.9), cosine(0.1, 300), length) == []
    assert explain(exponential(0.1, 0.9), lambda i: 0.1 * 0.9**i * (1 + 0.01 * math.sin(i * i)), length) == []
    assert explain(cosine(0.1, 300), lambda i: cosine(0.1, 300)(i) * (1 + 1e-4 * (i % 3)), length) == []


def test_a_short_warm_up_cannot_tell_scale_from_length_and_says_both() -> None:
    assert {cause.code for cause in explain(linear(3e-5, 100, 2000), linear(3e-5, 200, 2000), 10)} == {
        "rate_scale",
        "warmup_length",
    }


def test_the_fit_says_what_it_found() -> None:
    assert "700 steps in torch and 600 in paddle" in explain(cosine(0.1, 700), cosine(0.1, 600), 10)[0].evidence
    warm = explain(linear(3e-5, 4, 900), linear(3e-5, 6, 900), 10)[0]
    assert "torch in 4 steps and paddle in 6" in warm.evidence and warm.fix.startswith("warmup_steps=4 ")
    assert "paddle = 10 x torch" in explain(constant(0.1), constant(1.0), 10)[0].evidence


def test_irregular_drops_may_be_a_plateau() -> None:
    def drops(*at: int) -> Rate:
        return lambda i: 0.1 * 0.5 ** sum(i >= step for step in at)

    codes = [cause.code for cause in explain(drops(12, 31, 57), drops(12, 35, 70), 100)]
    assert codes[0] == "milestones" and "plateau" in codes


def test_a_group_that_took_a_rate_for_a_multiplier_is_named() -> None:
    torch = [[1e-2, 1e-3]] * 10
    paddle = [[1e-2, 1e-2 * 1e-3]] * 10
    (cause,) = explain_rates(torch, paddle, [(0, 0), (1, 1)])
    assert cause.code == "group_multiplier" and "0.1 instead of 0.001" in cause.fix


def test_a_group_whose_rate_paddle_ignores_is_named() -> None:
    (cause,) = explain_rates([[1e-2, 1e-3]] * 10, [[1e-2, 1e-2]] * 10, [(0, 0), (1, 1)])
    assert cause.code == "group_rate_ignored" and "'learning_rate': 0.1" in cause.fix


def test_a_rate_that_is_not_finite_is_named_with_its_step() -> None:
    (cause,) = explain(constant(0.1), lambda i: math.nan if i > 3 else 0.1, 10)
    assert cause.category.value == "nonfinite" and "step 4" in cause.evidence


def test_no_steps_have_no_cause() -> None:
    assert explain_rates([], [], [(0, 0)]) == []


@pytest.mark.parametrize("length", [5, 6, 8])
def test_a_scheduler_stepped_twice_in_a_short_run_is_told_without_a_floor_below_zero(length: int) -> None:
    def torch(i: int) -> float:
        return 1e-3 * (1 - 0.9 * i / 20)

    causes = explain(torch, lambda i: torch(2 * i), length)
    assert causes[0].code == "stepped_too_often" and "2 x i" in causes[0].evidence
    assert "floor" not in {cause.code for cause in causes}


def test_three_rates_that_a_factor_explains_are_not_skips() -> None:
    codes = {cause.code for cause in explain(linear(1e-3, 100, 2000), linear(1e-3, 50, 2000), 6)}
    assert "stepped_too_often" not in codes


@pytest.mark.parametrize("length", [8, 40])
def test_a_line_that_ends_below_torchs_is_a_floor_too(length: int) -> None:
    torch, paddle = polynomial(1e-3, 50, 1.0, 1e-4), polynomial(1e-3, 50, 1.0)
    cause = explain(torch, paddle, length)[0]
    assert cause.code == "floor" and "ends 0.0001 below torch's end" in cause.evidence


def test_the_rest_of_a_rate_that_decays_to_nothing_is_no_difference() -> None:
    assert explain_rates([[1.0], [0.5], [0.0]], [[1.0], [0.5], [1e-14]], [(0, 0)]) == []


def test_which_side_is_late_is_said() -> None:
    wave = cosine(0.1, 300)
    late, early = explain(wave, lambda i: wave(max(i - 1, 0)), 10)[0], explain(wave, lambda i: wave(i + 1), 10)[0]
    assert "paddle is 1 step(s) late: its rates are torch's of step i-1" in late.evidence
    assert "paddle is 1 step(s) early: its rates are torch's of step i+1" in early.evidence


def test_a_factor_of_one_step_and_one_that_a_shift_gives_too_are_less_certain() -> None:
    def certain(causes: list[Cause]) -> float:
        return next(cause.confidence for cause in causes if cause.code == "rate_scale")

    always = certain(explain(constant(0.1), constant(0.2), 10))
    assert always > certain(explain(constant(0.1), constant(0.2), 1))
    assert always > certain(explain(exponential(0.1, 0.95), exponential(0.1 * 0.95, 0.95), 10))


def test_a_warm_up_that_never_ends_may_be_all_that_is_scheduled() -> None:
    causes = explain(lambda i: 1e-4 * (i + 1), constant(1e-3), 10)
    assert {cause.code for cause in causes} == {"not_scheduled", "warmup_missing"}


def test_one_drop_is_less_certain_to_be_a_missing_schedule_than_a_whole_course() -> None:
    drop, course = explain(steps(0.1, 6, 0.5), constant(0.1), 10), explain(cosine(0.1, 700), constant(0.1), 10)
    assert drop[0].code == course[0].code == "not_scheduled" and drop[0].confidence < course[0].confidence


def test_a_warm_up_is_as_certain_as_its_law_unless_the_schedule_is_stepped_at_other_times() -> None:
    (missing,) = (cause for cause in explain(linear(3e-5, 4, 9000), polynomial(3e-5, 9000, 1.0), 64) if "warmup" in cause.code)
    assert missing.confidence >= 0.7


@pytest.mark.parametrize("length", [10, 64])
@pytest.mark.parametrize(
    "schedule",
    [cosine(0.1, 900), polynomial(0.01, 6000, 1.0), exponential(0.1, 0.9), steps(0.1, 3, 0.9), restarting(0.1, 7)],
    ids=["cosine", "line", "exponential", "steps", "restarts"],
)
def test_a_scaled_schedule_is_nothing_but_scaled(schedule: Rate, length: int) -> None:
    assert [cause.code for cause in explain(schedule, lambda i: 0.5 * schedule(i), length)] == ["rate_scale"]


def test_a_floor_under_a_scaled_cosine_is_less_certain_than_one_under_the_same_peak() -> None:
    same = explain(cosine(0.1, 700), cosine(0.1, 700, 1e-3), 64)[0]
    other = explain(cosine(0.1, 700), cosine(0.2, 700, 1e-3), 64)[0]
    assert same.code == other.code == "floor" and same.confidence > other.confidence


def test_laws_that_hold_for_one_schedule_alone_explain_nothing() -> None:
    assert explain(steps(0.1, 3, 0.9), steps(0.2, 3, 0.97), 64) == []
    assert explain(steps(0.1, 3, 0.9), steps(0.1, 4, 0.5), 64) == []
    assert explain(restarting(0.1, 8), lambda i: 0.5 * restarting(0.1, 6)(i), 64) == []
    assert explain(lambda i: 1e-3 * min(1.0, (i + 1) / 5), lambda i: 1e-3 * min(1.0, (i + 1) / 2), 10) == []
    assert explain(cosine(0.1, 100), lambda i: cosine(0.1, 100)(i) * (1.0001 if i == 63 else 1.0), 64) == []


def test_regular_drops_are_no_plateau() -> None:
    assert [cause.code for cause in explain(steps(0.1, 3, 0.9), steps(0.1, 4, 0.9), 64)] == ["milestones"]


def test_a_cosine_of_twice_the_length_is_a_matter_of_cycles_too() -> None:
    assert explain(cosine(0.1, 350), cosine(0.1, 700), 64)[0].code == "cosine_cycles"


def test_a_rate_of_torchs_that_is_not_finite_is_torchs() -> None:
    (cause,) = explain(lambda i: math.inf if i > 2 else 0.1, constant(0.1), 10)
    assert "torch's rate is not finite from step 3" in cause.evidence


def test_a_group_that_a_side_lacks_is_left_to_the_comparison() -> None:
    assert [cause.code for cause in explain_rates([[0.1]] * 4, [[0.2]] * 4, [(0, 0), (1, 0), (0, 1)])] == ["rate_scale"]
