"""Runs `stepalign translate`: asks one worker how a training is constructed, and translates the answer."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepalign.coordinator.atlas.applying import Side
from stepalign.coordinator.atlas.calls import from_plain
from stepalign.coordinator.atlas.pairing import NoCounterpart
from stepalign.coordinator.atlas.training import Construction, TranslatedTraining, translate_training
from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.running.run_state import Watcher
from stepalign.coordinator.sessions.construction_session import ConstructionSession
from stepalign.coordinator.sessions.members import find_crew
from stepalign.protocol.errors import CaseError
from stepalign.protocol.messages import Constructed


@dataclass(frozen=True)
class Expressions:
    """What constructs a training over ``params``: the optimizer, and over it torch's schedule; and what clips."""

    optimizer: str
    schedule: str = ""
    clip: str = ""


def write_expressions(expressions: Expressions, side: Side, path: Path) -> Path:
    """Write expressions down as a script that a worker loads as it loads a case's. Raises CaseError for what is no code."""
    for what, text in vars(expressions).items():
        try:
            ast.parse(f"({text})" if text else "()", mode="eval")
        except SyntaxError as error:
            raise CaseError(f"the {what} {text!r} is no Python expression: {error.msg}") from None
    path.write_text(
        f"""\
import math

import {side}


def construct(model, params):
    parameters = params
    optimizer = ({expressions.optimizer})
    return optimizer, ({expressions.schedule or None})


def clip(model, params):
    parameters = params
    ({expressions.clip or None})
""",
        encoding="utf-8",
    )
    return path


def run_translate(
    case: Case, side: Side, expressions: Expressions | None, watcher: Watcher
) -> TranslatedTraining:
    """Return the other side's training for one side's expressions or, where there are none, its script.

    Raises CaseError where something has no counterpart that was measured, with the reason.
    """
    with tempfile.TemporaryDirectory(prefix="stepalign-translate-") as name:
        folder = Path(name)
        with (
            find_crew(case, (side,), watcher.meeting(folder)) as crew,
            ConstructionSession(case, crew.member(case, side, folder), watcher.tick) as session,
        ):
            session.start()
            script = None if expressions is None else write_expressions(expressions, side, folder / "expressions.py")
            return translated(side, session.construct(script))


def translated(side: Side, answer: Constructed) -> TranslatedTraining:
    """Translate what a worker said. Raises CaseError."""
    try:
        return translate_training(construction_of(side, answer))
    except NoCounterpart as error:
        raise CaseError(f"not translated: {error}") from None


def construction_of(side: Side, answer: Constructed) -> Construction:
    """Return what a worker said as calls."""
    schedule = from_plain(answer.schedule) if answer.schedule else None
    optimizer: Mapping[str, Any] = answer.optimizer
    groups = tuple(from_plain(group) for group in optimizer.get("groups", ()))
    clips = tuple(from_plain(clip) for clip in answer.clips)
    if side == "paddle":
        schedule = None  # the optimizer holds it
    return Construction(side, from_plain(optimizer), groups if len(groups) > 1 else (), schedule, clips)
