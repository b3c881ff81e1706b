"""How far apart two values may be, from a tolerance, their size and what came before."""

from __future__ import annotations

import numpy as np
import pytest

from stepalign.coordinator.comparison.allowances import Allowances
from stepalign.coordinator.comparison.tolerances import Tolerance

TABLE = {
    "loss": Tolerance(1e-3, 1e-7, per_drift=5.0),
    "gradient": Tolerance(1e-4, 1e-8, of_tensor=1e-2, of_model=1e-3, per_drift=2.0),
    "optimizer_state": Tolerance(1e-4, 1e-8, of_tensor=1e-2, per_drift=2.0),
    "parameter": Tolerance(1e-6, 1e-9, of_tensor=1e-2, per_drift=2.0),
    "buffer": Tolerance(1e-4, 1e-8, of_tensor=1e-2),
}
THREE = np.array([1.0, -3.0])


def allowances(drift: float = 0.0) -> Allowances:
    found = Allowances(TABLE)
    found.drift = drift
    return found


def test_a_tensor_may_differ_by_a_part_of_itself_and_a_part_of_the_models_greatest() -> None:
    assert allowances().tensor("gradient", THREE, 50.0) == (1e-4, pytest.approx(1e-8 + 1e-2 * 3.0 + 1e-3 * 50.0))
    assert allowances().tensor("gradient", None, 50.0) == (1e-4, pytest.approx(1e-8 + 1e-3 * 50.0))


@pytest.mark.parametrize(("drift", "part"), [(0.0, 1e-2), (0.01, 1e-2 + 0.02), (0.05, 1e-2 + 0.1), (3.0, 1e-2 + 0.1)])
def test_drift_widens_the_part_up_to_a_tenth(drift: float, part: float) -> None:
    assert allowances(drift).tensor("gradient", THREE, 0.0)[1] == pytest.approx(1e-8 + part * 3.0)


def test_a_loss_may_differ_by_more_the_further_the_parameters_are_apart() -> None:
    assert allowances().loss() == (1e-3, 1e-7)
    assert allowances(0.01).loss() == (pytest.approx(1e-3 + 5.0 * 0.01), 1e-7)


def test_a_parameter_may_differ_by_a_part_of_its_update_and_by_its_share_of_the_drift() -> None:
    after = THREE + np.array([0.0, 0.5])
    assert allowances().parameter(THREE, after, False) == (1e-6, pytest.approx(1e-9 + 1e-2 * 0.5))
    assert allowances().parameter(THREE, after, True) == (1e-6, pytest.approx(1e-9 + 2.0 * 0.5))
    apart = allowances(0.01).parameter(THREE, after, False)
    assert apart == (1e-6, pytest.approx(1e-9 + (1e-2 + 0.02) * 0.5 + 0.01 * 3.0))
    assert allowances(0.01).parameter(None, after, True) == (1e-6, 1e-9)


def test_after_a_gap_both_parts_of_a_slots_tolerance_are_wider() -> None:
    assert allowances().after_gap(THREE, 10.0) == (pytest.approx(1e-3), pytest.approx(10.0 * (1e-8 + 1e-2 * 3.0)))
    assert allowances().after_gap(None, 10.0) == (pytest.approx(1e-3), pytest.approx(1e-7))


def test_a_running_mean_may_differ_by_a_part_of_its_deviation_too() -> None:
    buffers = {"bn.running_mean": THREE, "bn.running_var": np.array([4.0, 25.0]), "other.count": THREE}
    assert allowances().buffer(buffers, "bn.running_mean")[1] == pytest.approx(1e-8 + 1e-2 * (3.0 + 5.0))
    assert allowances().buffer(buffers, "bn.running_var")[1] == pytest.approx(1e-8 + 1e-2 * 25.0)
    assert allowances().buffer({"bn.running_mean": THREE}, "bn.running_mean")[1] == pytest.approx(1e-8 + 1e-2 * 3.0)


def test_noise_is_a_part_of_the_models_greatest_gradient() -> None:
    assert allowances().noise_floor({"a": THREE, "b": np.array([100.0])}) == pytest.approx(0.1)
    assert allowances().noise_floor({}) == 0.0
