"""Which side draws random numbers, from a first step and its repetitions: plain arrays, no worker."""

from __future__ import annotations

import numpy as np

from stepalign.coordinator.running.randomness import random_sides
from stepalign.coordinator.running.replay import Repetitions
from stepalign.coordinator.sessions.step_plan import StepPair
from stepalign.protocol.messages import StepResult

KEYS = ("G@input", "G", "G@grad", "@update:0", "G#1@input", "G#1")


def result(differs_from: str = "", loss: float = 1.0) -> StepResult:
    """Return one side's step, whose arrays from one name on are others."""
    start = KEYS.index(differs_from) if differs_from else len(KEYS)
    arrays = {key: np.full(3, 1.0 if place < start else 2.0, np.float32) for place, key in enumerate(KEYS)}
    return StepResult(0, [], np.array(loss, np.float32), "", {"activation": arrays}, (), 0.0)


def pair(paddle: StepResult) -> StepPair:
    return StepPair(0, result(), paddle, "")


ONCE = pair(result())


def found(exact: StepResult, free: StepResult) -> tuple[str, ...]:
    """Return the random sides where both scripts own their loop, and paddle's repetitions came out so."""
    return random_sides(ONCE, Repetitions(pair(free), pair(exact)), ("torch", "paddle"))


def test_what_an_update_leaves_for_the_next_step_is_not_taken_for_randomness() -> None:
    assert found(result("G#1", 1.5), result("G#1", 1.7)) == ()
    assert found(result("", 1.5), result("", 1.5)) == ()


def test_what_the_loop_itself_changes_from_step_to_step_is_not_taken_for_randomness() -> None:
    assert found(result("G"), result("G")) == ()
    assert found(result("G@input"), result("G@input")) == ()


def test_a_difference_that_goes_away_when_random_numbers_are_put_back_is_randomness() -> None:
    assert found(result(), result("G")) == ("paddle",)
    assert found(result("G#1", 1.5), result("G@grad", 1.7)) == ("paddle",)
    assert found(result(), result("", 1.1)) == ("paddle",)


def test_a_call_more_or_less_is_randomness_too() -> None:
    fewer = result()
    del fewer.tensors["activation"]["G"]
    assert found(result(), fewer) == ("paddle",)


def test_without_random_numbers_put_back_a_script_that_owns_its_loop_is_not_said_to_be_random() -> None:
    assert random_sides(ONCE, Repetitions(pair(result("G", 2.0))), ("paddle",)) == ()
    assert random_sides(ONCE, Repetitions(pair(result("G", 2.0))), ()) == ("paddle",)
    assert random_sides(ONCE, None, ()) == ()
