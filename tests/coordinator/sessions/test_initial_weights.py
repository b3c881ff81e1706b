"""How initial weights come from one double to the other: with what it built, or by asking for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.sessions.session import Session
from stepalign.protocol.messages import LoadWeights, SendWeights

from ...doubles.stage import NUMPY_SIDE

NAMES = {"fc.weight", "fc.bias"}
OTHER_SIDE = NUMPY_SIDE.replace("default_rng(case.seed)", "default_rng(case.seed + 1)")
assert OTHER_SIDE != NUMPY_SIDE


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every request that a session sends about weights: to whom, and which."""
    found: list[tuple[str, str]] = []
    plain = Session.switchboard.fget  # type: ignore[attr-defined]

    def noting(session: Session) -> Any:
        board = plain(session)
        if not hasattr(board, "noted"):
            board.noted, passed = True, board.send

            def note(role: str, message: Any) -> None:
                if isinstance(message, (SendWeights, LoadWeights)):
                    found.append((role, type(message).__name__))
                passed(role, message)

            board.send = note
        return board

    monkeypatch.setattr(Session, "switchboard", property(noting))
    return found


@pytest.mark.parametrize(
    ("source", "requests"),
    [("torch", [("paddle", "LoadWeights")]), ("paddle", [("torch", "LoadWeights")]), ("none", [])],
)
def test_the_side_that_gives_weights_gives_them_with_what_it_built(
    make_case: Any, make_members: Any, asked: list[tuple[str, str]], source: str, requests: list[tuple[str, str]]
) -> None:
    text = f'steps = 2\ndtype = "float64"\n[weights]\nsource = "{source}"'
    case = load_case(make_case(text, torch_side=NUMPY_SIDE, paddle_side=OTHER_SIDE))
    with Session(case, make_members(), "train", lambda: None) as session:
        session.start()
        session.build()
        first = session.exchange_weights()
        assert asked == requests
        held = {role: session.read_weights(role) for role in ("torch", "paddle")}
    assert asked[len(requests) :] == [("torch", "SendWeights"), ("paddle", "SendWeights")]
    for role, named in held.items():
        assert set(named) == NAMES
        for name, array in named.items():
            np.testing.assert_array_equal(array, first[role][name])
    equal = np.array_equal(held["torch"]["fc.weight"], held["paddle"]["fc.weight"].T)
    assert equal is (source != "none")


def test_weights_that_others_were_loaded_over_are_read_anew(
    make_case: Any, make_members: Any, asked: list[tuple[str, str]]
) -> None:
    case = load_case(make_case('steps = 2\ndtype = "float64"', torch_side=NUMPY_SIDE, paddle_side=NUMPY_SIDE))
    with Session(case, make_members(), "train", lambda: None) as session:
        session.start()
        session.build()
        given = {"fc.weight": np.full((3, 2), 7.0), "fc.bias": np.ones(3)}
        session.load_weights({"torch": given})
        held = session.read_weights("torch")
    assert asked == [("torch", "LoadWeights"), ("torch", "SendWeights")]
    assert {name: array.tolist() for name, array in held.items()} == {name: array.tolist() for name, array in given.items()}
