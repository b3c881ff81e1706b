"""What a script's optimizer(case, parameters) may give; the loop itself runs in tests of `stepalign optimizer`."""

from __future__ import annotations

import pytest

from stepalign.protocol.errors import CaseError
from stepalign.workers.gradient_loop import parts_of


def test_an_optimizer_alone_or_with_schedule_and_clip_is_taken_apart() -> None:
    assert parts_of("optimizer") == ("optimizer", None, None)
    assert parts_of(("optimizer", "schedule")) == ("optimizer", "schedule", None)
    assert parts_of(("optimizer", None, print)) == ("optimizer", None, print)


@pytest.mark.parametrize("built", [(), (1, 2, 3, 4)])
def test_another_number_of_parts_is_refused(built: object) -> None:
    with pytest.raises(CaseError, match="returns an optimizer, \\(optimizer, scheduler\\) or"):
        parts_of(built)


def test_a_clip_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(CaseError, match="the third of optimizer.* is a function .* got float"):
        parts_of(("optimizer", None, 1.0))
