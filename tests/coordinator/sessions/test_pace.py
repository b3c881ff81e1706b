"""How many steps are asked for by one message: as many as take about `TOGETHER_S` at the pace of the last message."""

from __future__ import annotations

import pytest

from stepalign.coordinator.sessions.pace import MAX_TOGETHER, TOGETHER_S, Pace


def test_the_first_step_is_asked_for_alone() -> None:
    pace = Pace()
    assert pace.together == 1
    pace.asked(0, 1, 10.0)
    assert pace.together == 1


@pytest.mark.parametrize(
    ("step_s", "together"),
    [(1.0, 1), (TOGETHER_S, 1), (TOGETHER_S / 2.5, 2), (TOGETHER_S / 30.5, 30), (1e-7, MAX_TOGETHER), (0.0, MAX_TOGETHER)],
)
def test_steps_are_asked_for_together_as_far_as_they_are_short(step_s: float, together: int) -> None:
    pace = Pace()
    pace.asked(5, 100, 10.0)
    pace.answered(105, 10.0 + 100 * step_s)
    assert pace.together == together


def test_a_message_asks_for_twice_as_many_as_the_one_before_at_most() -> None:
    pace = Pace()
    counts = []
    step = 0
    while pace.together < MAX_TOGETHER:
        counts.append(pace.together)
        pace.asked(step, pace.together, 10.0)
        step += pace.together
        pace.answered(step, 10.0)
    assert counts == [1, 2, 4, 8, 16, 32]


def test_a_message_counts_when_its_last_step_is_answered_from_when_the_one_before_it_was() -> None:
    pace = Pace()
    pace.asked(0, 1, 10.0)
    pace.asked(1, 4, 10.0)
    pace.answered(1, 10.001)
    assert pace.together == 2
    for step in (2, 3, 4):
        pace.answered(step, 10.5)
        assert pace.together > 1
    pace.answered(5, 10.401)
    assert pace.together == 1


def test_what_is_asked_for_after_a_pause_does_not_count_the_pause() -> None:
    pace = Pace()
    pace.asked(0, 1, 10.0)
    pace.answered(1, 11.0)
    pace.asked(1, 1, 20.0)
    pace.answered(2, 20.001)
    assert pace.together == 2
