"""Runs the steps of a run whose workers have built: gives both sides the same weights, judges.

Imported while the workers are waited for (`run`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, List

from stepalign.coordinator.cases.batches import batch_sizes
from stepalign.coordinator.cases.case import SIDES
from stepalign.coordinator.cases.collection import STATE_KINDS, plan_collection, step_size_bytes
from stepalign.coordinator.comparison.rates import pair_groups
from stepalign.coordinator.diagnosis.cause import Finding
from stepalign.coordinator.diagnosis.declared.preflight import compare_declarations
from stepalign.coordinator.diagnosis.declared.relevance import settle_by_data
from stepalign.coordinator.diagnosis.declared.tying import find_untied
from stepalign.coordinator.diagnosis.modules.dropout_draws import compare_draws
from stepalign.coordinator.results.records import StepsLog
from stepalign.coordinator.running.built_buffers import compare_built, told_buffers
from stepalign.coordinator.running.checkpoints import Keeper
from stepalign.coordinator.running.continuing import KeptParts, check_sides, why_never_kept
from stepalign.coordinator.running.heap import keep_large_blocks_apart
from stepalign.coordinator.running.left_out import trained_though_left_out
from stepalign.coordinator.running.recorder import Recorder
from stepalign.coordinator.running.repeated_log import RepeatedLog
from stepalign.coordinator.running.run_state import Run, Watcher
from stepalign.coordinator.running.step_judge import begin_judge
from stepalign.coordinator.sessions.naming import unused_patterns
from stepalign.coordinator.sessions.session import Session
from stepalign.coordinator.sessions.settings_check import compare_settings
from stepalign.coordinator.sessions.step_plan import Keeping, StepPair, StepPlan

SMALL_STATE_BYTES = 16 << 20
"""Of both sides' state: messages of such runs come whole and leave holes in the heap, and judging takes few large blocks."""

LOOKED_AT_STEPS = 100
"""How many steps' batches are looked through for what a declared difference depends on."""


def run_steps(run: Run, session: Session, log: StepsLog, watcher: Watcher) -> None:
    """Bring both workers from what they have built to their last step; what they show is in ``run``."""
    case = run.case
    assert run.batches is not None
    torch, paddle = session.declarations["torch"], session.declarations["paddle"]
    run.warnings += unused_patterns(torch.tensors, paddle.tensors, case.file.weights)
    run.warnings += trained_though_left_out(session.names, session.declarations)
    run.warnings += compare_settings(session.facts["torch"], session.facts["paddle"])
    run.findings = compare_declarations(
        torch,
        paddle,
        [(piece.torch.tensor, piece.paddle.tensor) for piece in session.names.pieces],
        session.names.modules,
        case.file.mode,
        case.file.compare.dropout,
        undeclared=[side for side in SIDES if not case.declares_after_backward(side)],
    )
    run.findings = find_untied(session.names) + settle_by_data(
        run.findings, (run.batches[step] for step in range(min(case.steps, LOOKED_AT_STEPS)))
    )
    watcher.phase("exchanging initial weights")
    run.initial = session.exchange_weights(told_buffers(session.names, run.declarations))
    run.warnings += compare_built(session.names, case.file.weights.source, run.initial, session.replaced)
    check_sides(run)
    judge = begin_judge(case, session, run.initial)
    run.collection, rule = plan_collection(case, torch)
    run.compared = {
        "initial weights": "every value; read back where they were loaded, sent from there only where bytes differ",
        "tensors": rule,
        "rates and losses": "every step",
        "batches": "digest of every step's bytes",
    }
    if case.against is not None:
        run.compared[f"{case.against.side} side"] = f"recorded {case.against.made}, played back from {case.against.place.name}"
    lines = RepeatedLog(log, run.folder, run.origin.recorded)
    recorder = Recorder(judge, lines, case.file.compare.resync, watcher.step)
    run.record = recorder.record
    watcher.worst(run.record.worst)
    run.record.rate_pairs = tuple((ours, theirs) for ours, theirs, _ in pair_groups(session.names, torch, paddle))
    run.record.batch_sizes = batch_sizes(run.batches[0])
    found: List[Finding] = []
    parts = KeptParts(judge, recorder.record, found)
    first = parts.restore(run, watcher)
    every_s = 0.0 if why_never_kept(case) else case.file.resume.every_s
    state_size_bytes = step_size_bytes(torch, STATE_KINDS) + step_size_bytes(paddle, STATE_KINDS)
    if watcher.own_process and state_size_bytes < SMALL_STATE_BYTES:
        keep_large_blocks_apart()
    pages = session.switchboard.give_pages_back
    keeper = Keeper(run.folder, log, every_s, parts.describe, give_pages_back=pages, size_bytes=state_size_bytes)
    watcher.phase(f"running {case.steps} steps")
    activations = case.file.collect.activations
    plan = StepPlan(first, case.steps, run.collection.kinds, lambda step: activations, case.file.compare.resync)
    run.plan = replace(_with_activations(plan), keeping=Keeping(keeper.due, keeper.keep))
    session.step(run.plan, run.batches, _watching_masks(run, recorder.take, found))


def _watching_masks(
    run: Run, take: Callable[[StepPair], None], found: List[Finding]
) -> Callable[[StepPair], None]:
    """Return ``take`` such that the shared dropout masks of each step are compared too, until they differ."""

    def watch(pair: StepPair) -> None:
        take(pair)
        masks = pair.reference.masks, pair.candidate.masks
        if any(masks) and not found:
            found.extend(compare_draws(*masks))
            run.findings += found

    return watch


def _with_activations(plan: StepPlan) -> StepPlan:
    if not plan.activations(0):
        return plan
    return replace(plan, kinds=lambda step: (*plan.kinds(step), "activation"))
