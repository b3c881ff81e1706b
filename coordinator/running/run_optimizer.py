"""Runs the comparison of optimizers alone, under given gradients: `stepalign optimizer`."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stepalign.coordinator.atlas.pairings import pairings_of
from stepalign.coordinator.cases.case import SIDES, Case
from stepalign.coordinator.comparison.comparison import Comparison, nearness
from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.diagnosis.declared.preflight import compare_declarations
from stepalign.coordinator.diagnosis.explain import Evidence, explain
from stepalign.coordinator.diagnosis.ranking import rank
from stepalign.coordinator.results.deliverables import write_result
from stepalign.coordinator.results.records import StepsLog, create_run_folder
from stepalign.coordinator.results.result import (
    CaseFacts,
    FirstDivergence,
    KnownDifference,
    RegimeFacts,
    Result,
    Verdict,
)
from stepalign.coordinator.running.optimizer_drive import RegimeRun, drive_regime
from stepalign.coordinator.running.recorder import Record
from stepalign.coordinator.running.run_state import Watcher
from stepalign.coordinator.running.schedule import defines
from stepalign.coordinator.running.verdict import VERSION, divergence_of, error_facts, side_facts, worst_of
from stepalign.coordinator.sessions.members import both, find_crew
from stepalign.coordinator.sessions.optimizer_session import OptimizerSession
from stepalign.coordinator.sessions.settings_check import compare_settings
from stepalign.protocol.errors import CaseError, StepalignError
from stepalign.protocol.messages import WorkerFacts

UPDATES_NAME = "updates.jsonl"
UPDATE_KINDS = ("lr", "optimizer_state", "parameter")
_OWN_CATEGORIES = frozenset(
    {
        Category.SCHEDULE,
        Category.HYPERPARAMETER,
        Category.OPTIMIZER,
        Category.WEIGHT_DECAY,
        Category.GRADIENT_CLIPPING,
        Category.FROZEN_PARAMETER,
    }
)
"""Of what both sides declare, the part that an optimizer alone decides."""

_NOT_HERE = frozenset({"rounding_noise_update"})
"""Given gradients are what they are, zeros too: none is noise of a backward pass."""


@dataclass
class _Run:
    case: Case
    regimes: list[RegimeRun] = field(default_factory=list)
    facts: dict[str, WorkerFacts] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    held: bool = False
    error: BaseException | None = None


def defines_optimizer(case: Case) -> bool:
    """Say whether both scripts define optimizer(case, parameters). Raises CaseError where only one does."""
    owning = [side for side in SIDES if case.side(side).command]
    if owning:
        raise CaseError(
            f"the {owning[0]} side is a command that owns its loop: give [{owning[0]}] script, which defines "
            "optimizer(case, parameters)"
        )
    there = {side: defines(case.script(side), "optimizer") for side in SIDES}
    if len(set(there.values())) == 2:
        alone, other = sorted(there, key=lambda side: not there[side])
        raise CaseError(
            f"only {case.script(alone).name} defines optimizer(case, parameters): add it to "
            f"{case.script(other).name}, or to neither, to compare what build(case) gives"
        )
    return all(there.values())


def run_optimizer(case: Case, out: Path | None, watcher: Watcher) -> tuple[Result, Path]:
    """Compare the optimizers of a case under every regime of gradients; return the result and the run folder."""
    run = _Run(case, held=defines_optimizer(case))
    folder = create_run_folder(f"{case.name}-optimizer", now=datetime.datetime.now(), out=out)
    watcher.folder(folder)
    try:
        _drive(run, folder, watcher)
    except (StepalignError, KeyboardInterrupt) as caught:
        run.error = caught
    result = _result(run)
    write_result(folder, result)
    return result, folder


def _drive(run: _Run, folder: Path, watcher: Watcher) -> None:
    case = run.case
    with (
        find_crew(case, meeting=watcher.meeting(folder)) as crew,
        StepsLog(folder / UPDATES_NAME) as log,
        OptimizerSession(case, both(case, crew, folder), watcher.tick) as session,
    ):
        watcher.phase("starting both workers")
        session.start()
        session.configure()
        for regime in case.file.optimizer.regimes:
            watcher.phase(f"driving both optimizers by {regime} gradients")
            found = drive_regime(session, case, regime, run.held, log, watcher)
            if not run.regimes:
                run.facts = dict(session.facts)
                run.warnings += compare_settings(run.facts["torch"], run.facts["paddle"])
                run.findings = _findings(session, case)
            run.regimes.append(found)


def _findings(session: OptimizerSession, case: Case) -> list[Finding]:
    pairs = [(piece.torch.tensor, piece.paddle.tensor) for piece in session.names.pieces]
    torch, paddle = session.declarations["torch"], session.declarations["paddle"]
    found = compare_declarations(torch, paddle, pairs, session.names.modules, case.file.mode, case.file.compare.dropout)
    return [finding for finding in found if finding.cause.category in _OWN_CATEGORIES]


def _result(run: _Run) -> Result:
    file = run.case.file
    place, causes = _first(run)
    failed = run.error is not None
    verdict = Verdict.FAILED if failed else Verdict.DIVERGED if place is not None else Verdict.ALIGNED
    over = "parameters that both scripts were given" if run.held else "the parameters of build(case)"
    return Result(
        stepalign=VERSION,
        verdict=verdict,
        case=CaseFacts(run.case.name, file.optimizer.steps, file.mode, file.dtype, file.seed),
        steps_completed=min((found.steps for found in run.regimes), default=0),
        torch=side_facts(run.facts.get("torch"), (), {}),
        paddle=side_facts(run.facts.get("paddle"), (), {}),
        first_divergence=None if failed else place,
        known_differences=_known(run.regimes),
        causes=tuple(causes),
        findings=tuple(run.findings),
        warnings=tuple(run.warnings),
        compared={"updates": f"every step of every regime, over {over}, given each side's own gradient and state"},
        worst=_worst(run.regimes),
        regimes=tuple(_facts(found) for found in run.regimes),
        error=error_facts(run.error) if run.error is not None else None,
    )


def _first(run: _Run) -> tuple[FirstDivergence | None, Sequence[Cause]]:
    """Return where the sides first differ, by the order of the regimes, and why."""
    for found in run.regimes:
        failure = found.record.first_failure()
        if failure is not None:
            evidence = Evidence(found.names, found.torch, found.paddle, found.record, found.initial, run.findings)
            return _place(found, failure), explain(evidence, failure, None)
    mattering = [finding for finding in run.findings if finding.matters]
    if not mattering:
        return None, ()
    first = mattering[0]
    place = FirstDivergence(0, first.kind, first.torch_name, first.paddle_name, reason=first.cause.evidence)
    return place, rank(finding.cause for finding in mattering)


def _place(found: RegimeRun, failure: Comparison) -> FirstDivergence:
    place = divergence_of(failure)
    moved = found.moved_at(failure)
    times = ""
    if moved and failure.kind == "parameter" and failure.measures is not None:
        times = f"; the sides are {failure.measures.max_abs / moved:.3g} times torch's update of it apart"
    return replace(place, reason=f"{found.regime} gradients: {failure.reason}{times}")


def _facts(found: RegimeRun) -> RegimeFacts:
    failure = found.record.first_failure()
    return RegimeFacts(
        name=found.regime,
        steps=found.steps,
        passed=failure is None,
        difference=found.worst.ratio,
        step=found.worst.step,
        torch_name=found.worst.name,
        known=tuple(sorted({item.code for item in found.record.known.values()} - _NOT_HERE)),
    )


def _worst(regimes: Sequence[RegimeRun]) -> dict[str, Any]:
    """Return the worst comparison of each kind over all regimes."""
    record = Record()
    for found in regimes:
        for kind, item in found.record.worst.items():
            if kind in UPDATE_KINDS and (kind not in record.worst or nearness(item) > nearness(record.worst[kind])):
                record.worst[kind] = item
    return worst_of(record)


def _with_formula(item: KnownDifference, rule: str) -> KnownDifference:
    """Put what the atlas says of the rule before the numbers, where the formula is the difference."""
    pairings = pairings_of(f"torch.optim.{rule}", "torch") if item.code.endswith("_formula") else []
    return replace(item, evidence=f"{pairings[0].difference} {item.evidence}") if pairings else item


def _known(regimes: Sequence[RegimeRun]) -> tuple[KnownDifference, ...]:
    """Return what was recognised, each once for a parameter, with the regimes that it was seen in."""
    found: dict[tuple[str, str], KnownDifference] = {}
    seen: dict[tuple[str, str], list[str]] = {}
    for regime in regimes:
        for key, item in regime.record.known.items():
            if item.code in _NOT_HERE:
                continue
            found.setdefault(key, _with_formula(item, regime.torch.optimizer.type))
            seen.setdefault(key, []).append(regime.regime)
    return tuple(
        replace(item, evidence=f"{item.evidence} ({', '.join(seen[key])} gradients)") for key, item in found.items()
    )
