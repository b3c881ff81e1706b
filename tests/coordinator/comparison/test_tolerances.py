"""What a case sets for a kind stands for all that is allowed of it."""

from __future__ import annotations

import pytest

from stepalign.coordinator.cases.case import ToleranceEntry
from stepalign.coordinator.comparison.tolerances import Tolerance, tolerances


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_tolerance_that_is_set_takes_the_place_of_the_whole_entry_and_of_no_other(dtype: str) -> None:
    default = tolerances(dtype, {})
    table = tolerances(dtype, {"gradient": ToleranceEntry(rtol=1e-3, atol=1e-7)})
    assert table == {**default, "gradient": Tolerance(1e-3, 1e-7)}
    assert default == tolerances(dtype, {})


def test_what_is_not_set_beside_what_is_stays_at_its_default() -> None:
    default = tolerances("float32", {})["parameter"]
    assert tolerances("float32", {"parameter": ToleranceEntry(atol=1e-7)})["parameter"] == Tolerance(default.rtol, 1e-7)
    assert tolerances("float32", {"parameter": ToleranceEntry(rtol=0.5)})["parameter"] == Tolerance(0.5, default.atol)
    assert tolerances("float32", {"parameter": ToleranceEntry(rtol=0.0)})["parameter"] == Tolerance(0.0, default.atol)
