"""How far a clipped softmax accounts for what failed in a run."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import pytest

from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.diagnosis.loss.loss_formula import LossSite
from stepalign.coordinator.running import clipped_loss
from stepalign.coordinator.running.clipped_loss import clipping_warning, first_beyond_clipping
from stepalign.protocol.errors import WorkerFailure

LOGITS = np.array([[0.0, 100.0, -50.0], [3.0, 1.0, 0.0]], np.float32)
LABELS = {"y": np.array([0, 0])}


def failed(step: int, kind: str = "loss", name: str = "loss") -> Comparison:
    return Comparison(step, kind, name, name, False, reason="out of tolerance")


def clipped(torch: float = (100.0 + 0.169846) / 2, paddle: float = (64.0 + 0.169846) / 2) -> LossSite:
    given = {"<model>": LOGITS}
    return LossSite(given, given, LABELS, (np.array(torch, np.float32), np.array(paddle, np.float32)))


def beyond(failures: list[Comparison], sites: list[Optional[LossSite]], monkeypatch: Any) -> Optional[Comparison]:
    monkeypatch.setattr(clipped_loss, "replay_loss_sites", lambda *given: sites)
    nothing: Any = None
    return first_beyond_clipping(nothing, nothing, nothing, nothing, failures[0], failures, nothing, lambda: None)


def test_losses_that_are_each_proved_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert beyond([failed(2)], [], monkeypatch) is None
    assert beyond([failed(2), failed(3)], [clipped()], monkeypatch) is None


@pytest.mark.parametrize("site", [None, clipped(paddle=40.0)])
def test_a_later_loss_that_is_not_proved_is_left(site: Optional[LossSite], monkeypatch: pytest.MonkeyPatch) -> None:
    assert beyond([failed(2), failed(3), failed(4)], [clipped(), site], monkeypatch) == failed(4)


def test_another_kind_that_fails_is_left_and_the_warning_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    other = failed(2, "parameter", "head.weight")
    assert beyond([failed(2), other, failed(3)], [], monkeypatch) == other
    assert "parameter head.weight at step 2" in clipping_warning(failed(2), other)


def test_a_replay_that_fails_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise WorkerFailure("gone")

    monkeypatch.setattr(clipped_loss, "replay_loss_sites", fail)
    nothing: Any = None
    failures = [failed(0), failed(1)]
    found = first_beyond_clipping(nothing, nothing, nothing, nothing, failures[0], failures, nothing, lambda: None)
    assert found == failed(1)
