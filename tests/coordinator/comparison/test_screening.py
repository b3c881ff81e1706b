"""What is measured in full after a step was screened: the worst of each kind, from its own arrays."""

from __future__ import annotations

import numpy as np
import pytest

from stepalign.coordinator.comparison.canonical import Sizes
from stepalign.coordinator.comparison.measures import measure
from stepalign.coordinator.comparison.piece_comparer import PieceComparer
from stepalign.coordinator.comparison.step_scans import Scans
from stepalign.coordinator.sessions.naming import NameMap

RAW = np.linspace(-1.0, 1.0, 64, dtype=np.float32)


@pytest.mark.parametrize("used", [RAW[:, None] / 2, RAW / 2], ids=["another shape", "other numbers"])
def test_a_gradient_that_was_compared_twice_is_measured_as_it_was_compared(used: np.ndarray) -> None:
    comparer = PieceComparer(NameMap((), ()), False, Scans(Sizes()))
    near = np.nextafter(RAW, np.float32(2.0))
    raw = comparer.compare("gradient", 3, "w", ({"w": RAW}, {"w": near}), atol=1e-3)
    comparer.compare("gradient", 3, "w", ({"w": used}, {"w": np.nextafter(used, np.float32(0.0))}), atol=1e-3)
    (completed,) = comparer.complete([raw])
    assert completed.measures == measure(RAW, near, 0.0, 1e-3)


def test_of_each_kind_the_worst_alone_is_measured_in_full() -> None:
    comparer = PieceComparer(NameMap((), ()), False, Scans(Sizes()))
    found = [
        comparer.compare(kind, 0, name, ({name: RAW}, {name: RAW + np.float32(apart)}), atol=1.0)
        for kind, name, apart in (("gradient", "a", 0.1), ("gradient", "b", 0.5), ("parameter", "a", 0.2))
    ]
    completed = comparer.complete(found)
    assert [item.measures is not None and item.measures.complete for item in completed] == [False, True, True]
    assert completed[1].measures is not None and completed[1].measures.max_abs == pytest.approx(0.5)
    assert comparer.complete(found) == found, "the arrays of a step that is over are forgotten"
