"""Ports as tests: each runs both frameworks step by step, and fails with stepalign's own report unless they agree.

    pytest examples/pytest_suite
    pytest examples/pytest_suite -n 4 --stepalign-out runs/pytest --junitxml pytest.xml
"""

import pytest

DIGITS = "../digits_cnn"  # relative to this file


@pytest.mark.stepalign(case=DIGITS, steps=3)
def test_the_digits_port_trains_as_the_original_does():
    """The marker runs the case and fails the test; there is nothing left to say."""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [DIGITS], ids=["digits_cnn"])
def test_ports_agree_in_both_precisions(stepalign_run, case, dtype):
    result = stepalign_run(case, dtype=dtype, steps=3)
    assert "batch_norm_running_variance" in {known.code for known in result.known_differences}


def test_weights_that_are_not_shared_are_found_out(stepalign_run):
    """With check=False a case may end otherwise."""
    result = stepalign_run(DIGITS, steps=1, assignments=['weights.source="none"'], check=False)
    assert result.verdict == "diverged"
    assert result.first_divergence.kind == "initial_parameter"


def test_the_schedules_are_the_same(stepalign_run):
    stepalign_run.schedule(DIGITS)
