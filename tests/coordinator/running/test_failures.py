"""Which failures of a run are kept, and that the verdict is that of all of them."""

from __future__ import annotations

import random
import tracemalloc
from typing import List, Tuple

import numpy as np
import pytest

from stepalign.coordinator.comparison.comparison import Comparison, StepJudgement, compare_values
from stepalign.coordinator.comparison.measures import Measures
from stepalign.coordinator.results.result import KnownDifference
from stepalign.coordinator.running import failures as kept_failures
from stepalign.coordinator.running.failures import UNPACKED_COMPARISONS, Failures
from stepalign.coordinator.running.noise import Noise, beyond_noise, weigh


def failed(step: int, kind: str, apart: float, exact: bool = False) -> Comparison:
    """Return a value of about 1 that failed by ``apart``."""
    measures = Measures(1, max_abs=apart, reference=1.0, candidate=1.0 + apart, outside=1)
    return Comparison(step, kind, kind, kind, False, 1e-5, 0.0, measures, f"differs by {apart}", exact)


def taken(judgements: List[StepJudgement]) -> Failures:
    """Return what is kept of these steps."""
    failures = Failures(beyond_noise)
    for judgement in judgements:
        failures.take(judgement)
    return failures


def test_steps_come_back_equal_whether_packed_or_not() -> None:
    numbers = np.random.default_rng(0)
    judgements = []
    for step in range(2 * UNPACKED_COMPARISONS + 5):
        ours, wrong = numbers.standard_normal((2, 3, 4)).astype(np.float32)
        wrong[1, 1] = (np.nan, np.inf, 1.0)[step % 3]
        compared = compare_values(step, "loss", "a", "b", ours, wrong, 1e-5, 1e-8)
        lacking = compare_values(step, "loss", None, "b", None, wrong, 0.0, 0.0)
        passed = compare_values(step, "loss", "a", "a", ours, ours, 0.0, 0.0)
        known = (KnownDifference("code", "name", "text"),) if step % 2 else ()
        judgements.append(StepJudgement(step, (passed, compared, lacking), known, step / 7))
    failures = taken(judgements)
    expected = [StepJudgement(item.step, item.comparisons[1:], item.known, item.drift) for item in judgements]
    assert len(failures) == len(expected)
    assert repr(list(failures)) == repr(expected)  # repr: NaN is equal to itself there, and types show
    assert failures.first == expected[0] or repr(failures.first) == repr(expected[0])


def test_what_passed_is_not_kept() -> None:
    failures = taken([StepJudgement(0, (Comparison(0, "loss", "loss", "loss", True),))])
    assert failures.first is None and not len(failures) and failures.last_step == -1


def test_the_verdict_of_what_is_kept_is_that_of_all_failures() -> None:
    chance = random.Random(0)
    outcomes = set()
    for _ in range(400):
        steps = chance.randint(1, 150)
        judgements, noise = [], Noise()
        size = 10 ** chance.uniform(-7, -3)
        first = chance.choice((0, 0, 3))
        for step in range(steps):
            size *= chance.uniform(0.9, 1.3)
            for kind in ("loss", "gradient", "parameter"):
                noise.note(kind, kind, step, np.array(1.0), np.array(1.0 + size))
            found = tuple(
                failed(step, kind, size * 10 ** chance.uniform(0, 1.52), chance.random() < 0.01)
                for kind in ("loss", "gradient", "parameter")
                if chance.random() < 0.3 and step >= first
            )
            judgements.append(StepJudgement(step, found))
        every = [item for judgement in judgements for item in judgement.comparisons]
        kept = list(taken(judgements).comparisons())
        assert kept == every[: len(kept)]
        if not every:
            continue
        outcomes.add(_verdict(every, noise)[0] is None)
        assert _verdict(kept, noise) == _verdict(every, noise)
        others = [next((item for item in items if item.kind != "loss"), None) for items in (kept, every)]
        assert others[0] == others[1]
        if others[0] is None:
            assert kept == every
    assert outcomes == {True, False}


def _verdict(failures: List[Comparison], noise: Noise) -> Tuple[object, object]:
    return (failures[0], None) if beyond_noise(failures[0]) else weigh(failures, noise)


def test_after_the_failure_that_settles_the_verdict_nothing_more_is_kept() -> None:
    certain = [StepJudgement(step, (failed(step, "loss", 0.5), failed(step, "gradient", 0.5))) for step in range(100)]
    assert len(taken(certain)) == 1 and taken(certain).last_step == 99
    rule = [StepJudgement(step, (failed(step, "parameter", 1e-4, exact=step >= 7),)) for step in range(3, 100)]
    assert [item.step for item in taken(rule)] == [3, 4, 5, 6, 7]
    losses = [StepJudgement(step, (failed(step, "loss", 0.5),)) for step in range(100)]
    assert len(taken(losses)) == 100  # a loss may be a known difference, so all are weighed


def test_a_failing_loss_costs_no_memory() -> None:
    chance = random.Random(0)
    failures = Failures(beyond_noise)
    tracemalloc.start()
    try:
        for step in range(100 * UNPACKED_COMPARISONS):
            failures.take(StepJudgement(step, (failed(step, "loss", chance.random()),), drift=chance.random()))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held / (100 * UNPACKED_COMPARISONS) < 20 and len(list(failures)) == 100 * UNPACKED_COMPARISONS


def test_steps_that_fail_in_many_tensors_cost_no_memory_either_while_they_are_packed() -> None:
    chance = random.Random(0)
    failures = Failures(beyond_noise)
    tracemalloc.start()
    try:
        for step in range(500):
            found = tuple(failed(step, "loss", chance.random()) for _ in range(20))
            failures.take(StepJudgement(step, found, drift=chance.random()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20 and len(list(failures)) == 500


def test_what_packing_frees_goes_back_to_the_machine_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: List[int] = []
    monkeypatch.setattr(kept_failures, "give_back", lambda: given_back.append(step))
    failures = Failures(beyond_noise)
    for step in range(40 * UNPACKED_COMPARISONS):
        failures.take(StepJudgement(step, (failed(step, "loss", 0.5),)))
    assert given_back == [16 * UNPACKED_COMPARISONS - 1, 32 * UNPACKED_COMPARISONS - 1]
