"""Ports as tests: each runs both frameworks step by step, and fails with stepalign's own report unless they agree.

    pytest examples/pytest_suite
    pytest examples/pytest_suite -n 4 --stepalign-out runs/pytest --junitxml pytest.xml
"""

import pytest

DIGITS = "../digits_cnn"  # relative to this file


@pytest.mark.stepalign(case=DIGITS, steps=3)
def test_the_digits_port_trains_as_the_original_does():
    """The marker runs the case; there is nothing left to say."""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [DIGITS])
def test_ports_agree_in_both_precisions(stepalign_run, case, dtype):
    outcome = stepalign_run(case, dtype=dtype, steps=3)
    assert outcome.steps_completed == 3
    assert {known.code for known in outcome.known_differences} == {"batch_norm_running_variance"}


def test_a_mistake_is_found_and_named(stepalign_run):
    """With check=False a case may end otherwise: here the paddle side's rates are held against another schedule."""
    outcome = stepalign_run(DIGITS, steps=3, assignments=["paddle.script=paddle_side.py"], check=False)
    assert outcome.verdict == "aligned"


def test_the_schedules_are_the_same(stepalign_run):
    stepalign_run.schedule(DIGITS)
