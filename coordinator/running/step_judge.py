"""The judge of a run's steps, as the case's settings have it."""

from __future__ import annotations

from typing import Mapping

from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.comparison.judge import StepJudge
from stepalign.coordinator.comparison.tolerances import tolerances
from stepalign.coordinator.sessions.session import Session
from stepalign.protocol.messages import Named


def begin_judge(case: Case, session: Session, initial: Mapping[str, Named]) -> StepJudge:
    """Return a judge of both sides of a session that is built; ``initial`` are the weights that each side holds."""
    judge = StepJudge(
        session.names,
        session.declarations["torch"],
        session.declarations["paddle"],
        case.file.dtype,
        tolerances(case.file.dtype, case.file.tolerance),
        case.file.compare.strict,
        case.file.compare.allow_nonfinite,
        session.switchboard.give_pages_back,
    )
    judge.begin(initial["torch"], initial["paddle"])
    return judge
