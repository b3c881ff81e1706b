"""Compares the two sides' schedules alone: rates of thousands of steps, no model, in seconds."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np

from stepalign.coordinator.cases.case import SIDES, Case
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.comparison.rates import as_lists, compare_rates
from stepalign.coordinator.comparison.tolerances import tolerances
from stepalign.coordinator.diagnosis.cause import Cause
from stepalign.coordinator.diagnosis.rates.rate_causes import explain_rates
from stepalign.coordinator.sessions.members import Crew, both
from stepalign.coordinator.sessions.session import Session
from stepalign.protocol.errors import CaseError
from stepalign.protocol.messages import WorkerFacts


class ScheduleOutcome:
    """Rates of both sides, [step][group], with what differs and why."""

    def __init__(
        self,
        rates: Tuple[List[List[float]], List[List[float]]],
        comparisons: List[Comparison],
        facts: Dict[str, WorkerFacts],
    ) -> None:
        self.rates = rates
        self.comparisons = comparisons
        self.facts = facts
        self.failures = [item for item in comparisons if not item.passed]
        self._failing = {item.step for item in self.failures}

    def passed_at(self, step: int) -> bool:
        """Say whether every group's rate at ``step`` is within tolerance; a missing group fails every step."""
        return step not in self._failing and not any(item.measures is None for item in self.failures)

    def describe(self, milestones: Sequence[int]) -> str:
        """Return the comparison in a line: how many steps, the greatest relative difference, torch's rates at the
        milestones.
        """
        torch, paddle = (np.asarray(side, np.float64) for side in self.rates)
        steps = f"{len(torch)} steps"
        if torch.shape != paddle.shape:
            return f"{steps}, {torch.shape[1]} groups on torch and {paddle.shape[1]} on paddle"
        with np.errstate(all="ignore"):
            apart = np.abs(paddle - torch) / np.where(torch == 0.0, np.max(np.abs(torch), initial=1e-300), np.abs(torch))
        shown = ", ".join(f"{torch[step, 0]:.6g} at {step}" for step in milestones)
        return f"{steps}, every group: greatest relative difference {np.max(apart, initial=0.0):.2g}; torch's rate {shown}"

    def causes(self) -> List[Cause]:
        """Return why the rates differ, if they do."""
        if not self.failures:
            return []
        groups = min(len(self.rates[0][0]), len(self.rates[1][0]))
        return explain_rates(self.rates[0], self.rates[1], [(group, group) for group in range(groups)])


def defines_schedule(case: Case) -> Dict[str, bool]:
    """Say for each side whether its script defines ``schedule`` at its top level."""
    recording = case.against
    return {
        side: recording.schedule is not None
        if recording is not None and recording.side == side
        else not case.side(side).command and defines(case.script(side), "schedule")
        for side in SIDES
    }


def require_schedule(case: Case) -> None:
    """Raise CaseError, naming the scripts, if a side has no ``schedule(case)``."""
    lacking = [case.script(side).name for side, defined in defines_schedule(case).items() if not defined]
    if lacking:
        raise CaseError(
            f"{' and '.join(lacking)} of {case.folder} define no schedule(case): add one that returns (optimizer, scheduler)"
        )


def compare_schedules(
    case: Case, crew: Crew, folder: Path, on_tick: Callable[[], None], meanwhile: Callable[[], None] = lambda: None
) -> ScheduleOutcome:
    """Run both schedules in workers of their own and compare every step's rates; ``meanwhile`` is called as they start."""
    with Session(case, both(case, crew, folder), "schedule", on_tick) as session:
        session.start(meanwhile)
        return compare_schedules_of(case, session)


def compare_schedules_of(case: Case, session: Session) -> ScheduleOutcome:
    """Compare every step's rates of both schedules, in workers that are started or have trained."""
    session.build_schedules()
    rates = session.read_rates(case.file.schedule.steps)
    tolerance = tolerances(case.file.dtype, case.file.tolerance)["lr"]
    return ScheduleOutcome(
        (as_lists(rates["torch"]), as_lists(rates["paddle"])),
        compare_rates(rates["torch"], rates["paddle"], tolerance),
        dict(session.facts),
    )


def at_milestones(rates: Sequence[Sequence[float]], milestones: Sequence[int]) -> Dict[int, Sequence[float]]:
    """Return the rates at the milestones, by step. Step m's rate is the one that its update uses, counted from 0."""
    return {step: rates[step] for step in milestones if step < len(rates)}


def defines(script: Path, name: str) -> bool:
    """Say whether a script defines or imports ``name`` at its top level."""
    try:
        tree = ast.parse(script.read_text(encoding="utf-8"), str(script))
    except (SyntaxError, UnicodeDecodeError):
        return False
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            return True
        if isinstance(node, (ast.Import, ast.ImportFrom)) and any(
            (item.asname or item.name) == name for item in node.names
        ):
            return True
        if isinstance(node, ast.Assign) and any(
            isinstance(item, ast.Name) and item.id == name for item in node.targets
        ):
            return True
    return False
