"""How a measured control weighs differences: plain numbers."""

from __future__ import annotations

import numpy as np

from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.comparison.measures import Measures
from stepalign.coordinator.running.noise import Noise, beyond_noise, steps_ahead, weigh


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


def test_what_the_control_shows_as_well_is_explained_up_to_a_factor_of_thirty() -> None:
    noise = control(1e-5, 1e-5, 1e-5)
    assert noise.explains(difference(1, 29e-5))
    assert not noise.explains(difference(1, 31e-5))


def test_a_port_may_be_a_step_ahead_of_the_control_but_not_more() -> None:
    noise = control(0.0, 0.0, 1e-4, 1e-4)
    assert [steps_ahead(step) for step in (0, 1, 9, 10, 55)] == [1, 1, 1, 2, 6]
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
    assert weigh([blinding, difference(2, 0.4), later], noise) == (None, blinding)
    assert weigh([blinding, difference(1, 100.0)], noise) == (difference(1, 100.0), blinding)


def test_noise_as_large_as_a_value_that_cancels_blinds_nothing_beside_a_greater_one_of_its_kind() -> None:
    noise = Noise()
    for name, value, apart in (("bias", 1e-6, 1e-6), ("weight", 1.0, 1e-6)):
        noise.note("gradient", name, 0, np.array(value), np.array(value + apart))
    measures = Measures(1, max_abs=1e-6, reference=1e-6, candidate=2e-6, outside=1)
    item = Comparison(0, "gradient", "bias", "bias", False, 0.0, 1e-7, measures, "differs")
    assert noise.explains(item) and not noise.blinds(item)
    assert weigh([item], noise) == (None, None)


def test_of_several_values_of_a_step_the_greatest_counts_and_what_cannot_be_compared_counts_nothing() -> None:
    noise = Noise()
    for apart in (1e-5, 1e-3, 1e-4):
        noise.note("loss", "loss", 0, np.array(1.0), np.array(1.0 + apart))
    noise.note("loss", "loss", 1, np.ones(2), np.ones(3))
    noise.note("loss", "loss", 2, np.ones(0), np.ones(0))
    ((step, size),) = noise.of("loss", "loss")
    assert step == 0 and abs(size - 1e-3) < 1e-9
    assert noise.explains(difference(0, 29e-3)) and not noise.explains(difference(0, 31e-3))
    assert noise.of("loss", "other") == []


def test_what_the_control_showed_once_explains_its_like_at_every_later_step() -> None:
    noise = control(0.0, 1e-4, 1e-6, 1e-6, 1e-6)
    assert noise.explains(difference(4, 1e-3)) and noise.explains(difference(9, 1e-3))


def test_a_difference_that_the_control_lacks_is_the_divergence() -> None:
    noise = control(1e-7, 1e-7, 1e-7)
    wrong = difference(2, 1e-3)
    assert weigh([difference(1, 1e-6), wrong], noise) == (wrong, None)


def test_in_the_first_step_a_difference_far_out_of_tolerance_needs_no_control() -> None:
    assert beyond_noise(difference(0, 1e-2))
    assert not beyond_noise(difference(0, 2e-5))
    assert not beyond_noise(difference(5, 1e-2))
