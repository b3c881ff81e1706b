"""How a measured control weighs differences: plain numbers."""

from __future__ import annotations

import numpy as np

from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.comparison.measures import Measures
from stepalign.coordinator.running.noise import NOISE_FACTOR, Noise, beyond_noise, steps_ahead, weigh


def difference(step: int, apart: float, value: float = 1.0, exact: bool = False, kind: str = "loss") -> Comparison:
    """Return a loss that failed by ``apart``."""
    measures = Measures(1, max_abs=apart, reference=value, candidate=value + apart, outside=1)
    return Comparison(step, kind, "loss", "loss", False, 1e-5, 0.0, measures, "differs", exact)


def control(*apart: float) -> Noise:
    """Return what a control showed at steps 0, 1, ...: these differences of a loss of 1."""
    noise = Noise()
    for step, size in enumerate(apart):
        noise.note("loss", "loss", step, np.array(1.0), np.array(1.0 + size))
    return noise


def test_what_the_control_shows_as_well_is_explained_up_to_a_factor() -> None:
    noise = control(1e-5, 1e-5, 1e-5)
    assert noise.explains(difference(1, 0.99 * NOISE_FACTOR * 1e-5))
    assert not noise.explains(difference(1, 1.1 * NOISE_FACTOR * 1e-5))


def test_a_port_may_be_a_step_ahead_of_the_control_but_not_more() -> None:
    noise = control(0.0, 0.0, 1e-4, 1e-4)
    assert steps_ahead(1) == 1
    assert noise.explains(difference(1, 1e-4))
    assert not noise.explains(difference(0, 1e-4))


def test_an_exact_failure_is_never_noise() -> None:
    noise = control(1.0, 1.0)
    assert not noise.explains(difference(0, 1e-6, exact=True))
    assert beyond_noise(difference(3, 1e-6, exact=True))


def test_after_the_step_where_noise_blinds_only_exact_failures_count() -> None:
    noise = control(1e-6, 0.5, 0.5, 0.5)
    blinding, later, rule = difference(1, 0.4), difference(3, 100.0), difference(3, 1e-3, exact=True)
    assert weigh([blinding, later], noise) == (None, blinding)
    assert weigh([blinding, later, rule], noise) == (rule, blinding)


def test_a_difference_that_the_control_lacks_is_the_divergence() -> None:
    noise = control(1e-7, 1e-7, 1e-7)
    wrong = difference(2, 1e-3)
    assert weigh([difference(1, 1e-6), wrong], noise) == (wrong, None)


def test_in_the_first_step_a_difference_far_out_of_tolerance_needs_no_control() -> None:
    assert beyond_noise(difference(0, 1e-2))
    assert not beyond_noise(difference(0, 2e-5))
    assert not beyond_noise(difference(5, 1e-2))
