"""One worker that is asked how a training is constructed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.sessions.session import Member, Session
from stepalign.protocol import messages


class ConstructionSession(Session):
    """A session of one member."""

    def __init__(self, case: Case, member: Member, on_tick: Callable[[], None]) -> None:
        super().__init__(case, (member,), "construction", on_tick)

    def __enter__(self) -> ConstructionSession:
        return self

    def start(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Start the worker and have it import its framework."""
        super().start(meanwhile)
        (member,) = self._members
        self.switchboard.send(member.role, self._configuration(member))

    def construct(self, script: Path | None = None) -> messages.Constructed:
        """Have the worker construct what the script of `write_expressions`, or else the case's, says; return the calls."""
        (member,) = self._members
        request = messages.Construct("" if script is None else str(script))
        deadline_s = self._case.file.deadline.build_s
        answer = self.switchboard.ask({member.role: request}, messages.Constructed, deadline_s, "build")[member.role]
        self._take_facts(member, answer.facts)
        return answer
