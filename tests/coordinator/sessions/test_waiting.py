"""What the coordinator does while workers start and build, with doubles: when it is done, and that it is done once."""

from __future__ import annotations

from typing import Any

import pytest

from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.sessions import session as sessions
from stepalign.coordinator.sessions.session import Session

from ...doubles.stage import NUMPY_SIDE


@pytest.mark.parametrize(("cores", "seen"), [(2, ["Ready"]), (3, []), (1, ["Ready"])])
def test_it_waits_for_the_core_of_the_first_that_has_built_where_there_is_no_other(
    make_case: Any, make_members: Any, monkeypatch: pytest.MonkeyPatch, cores: int, seen: list[str]
) -> None:
    """``seen`` is what had come from the workers after they had greeted, when it was done."""
    monkeypatch.setattr(sessions, "available_cores", lambda: tuple(range(cores)))
    case = load_case(make_case('steps = 2\ndtype = "float64"', torch_side=NUMPY_SIDE, paddle_side=NUMPY_SIDE))
    came: list[str] = []
    done: list[list[str]] = []
    with Session(case, make_members(), "train", lambda: None) as session:
        session.start(lambda: done.append(list(came)))
        take = session.switchboard.next

        def note(*arguments: Any) -> Any:
            role, message = take(*arguments)
            came.append(type(message).__name__)
            return role, message

        monkeypatch.setattr(session.switchboard, "next", note)
        session.build()
    assert done == [seen] and came == ["Ready", "Ready"]
