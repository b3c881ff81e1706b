"""Finds the verdict of a finished run: the first divergence that rounding does not explain, where it lies and why."""

from __future__ import annotations

from dataclasses import replace
from typing import List, Optional, Tuple

from stepalign.coordinator.comparison.comparison import AS_USED, Comparison
from stepalign.coordinator.diagnosis.explain import Evidence, explain
from stepalign.coordinator.diagnosis.loss.loss_formula import softmax_clipping
from stepalign.coordinator.diagnosis.ranking import rank
from stepalign.coordinator.processes.switchboard import Interrupted
from stepalign.coordinator.results.result import FirstDivergence
from stepalign.coordinator.running.carried_statistics import follows_from_statistics
from stepalign.coordinator.running.clipped_loss import clipping_warning, first_beyond_clipping
from stepalign.coordinator.running.continuing import fetch_lost_steps
from stepalign.coordinator.running.first_difference import Located
from stepalign.coordinator.running.gap import first_in_gap
from stepalign.coordinator.running.locate import locate
from stepalign.coordinator.running.noise import beyond_noise, describe_noise, measure_noise, steps_ahead, weigh
from stepalign.coordinator.running.run_state import Run, Watcher
from stepalign.coordinator.running.turned_weights import explain_by_turning
from stepalign.coordinator.running.verdict import (
    divergence_of,
)
from stepalign.protocol.errors import StepalignError

UPDATED_KINDS = ("gradient", "optimizer_state", "parameter")
"""What an update works on and leaves."""

UNEXPLAINED = 0.5
"""Where no cause is more certain, a further replay may try one."""


def judge_run(run: Run, watcher: Watcher) -> None:
    """Find the first divergence that noise does not explain, where it lies and why."""
    failure = _first_unexplained(run, watcher)
    if run.record.first_failure() is not None:
        fetch_lost_steps(run, watcher)  # for the diagnosis, and for what the report shows of the first failure
    if failure is not None:
        failure = first_in_gap(run, failure, watcher)
    if failure is not None and not follows_from_statistics(run, failure, watcher):
        located = None
        if (
            failure.kind in ("loss", "gradient")
            and AS_USED not in failure.reason
            and run.session is not None
            and run.batches is not None
            and run.crew is not None
        ):
            watcher.phase(f"replaying step {failure.step} to find the module")
            run.warnings += _unlocated(run, failure.step)
            try:
                located = locate(run.case, run.crew, run.folder, run.session.names, failure, run.batches, watcher.tick)
            except Interrupted:
                raise
            except StepalignError as error:
                run.warnings.append(
                    f"step {failure.step} could not be run again, so neither the module that differs first was looked for nor a "
                    f"difference between the frameworks that is known: {error}"
                )
            failure, located = _before_update(run, failure, located)
        run.located = located
        if not _clipped(run, failure, located, watcher):
            run.divergence = divergence_of(_place(failure, located))
            run.causes = explain(_evidence(run), failure, located)
            if run.causes[0].confidence <= UNEXPLAINED:
                run.causes = rank([*explain_by_turning(run, located, watcher), *run.causes])
            return
    mattering = [finding for finding in run.findings if finding.matters]
    if mattering:
        first = mattering[0]
        run.divergence = FirstDivergence(
            0, first.kind, first.torch_name, first.paddle_name, reason=first.cause.evidence
        )
        run.causes = rank(finding.cause for finding in mattering)
        run.inconclusive = False
        return
    if run.schedule is not None and run.schedule.failures:
        run.divergence = divergence_of(run.schedule.failures[0])
        run.causes = run.schedule.causes()
        run.inconclusive = False
        return
    run.warnings += _untested_clipping(run)


def _untested_clipping(run: Run) -> List[str]:
    """Return a warning where clipping is declared and no gradient came to its limit."""
    clips = {side: _clip_of(run, side) for side in run.declarations}
    if run.record.clipped or not run.record.counts.get("gradient") or not any(clips.values()):
        return []
    shown = ", ".join(f"{side}: {clip}" for side, clip in clips.items() if clip)
    return [
        f"no gradient was changed between backward and its update ({shown}) in the steps that were collected whole: this run "
        "does not test the clipping; set its limit low enough in both scripts to see it act"
    ]


def _clip_of(run: Run, side: str) -> str:
    """Return how a side clips, as far as it declares it; empty where it does not: what a script that owns its loop, or a
    recorded one, does between backward and update is not declared.
    """
    declaration = run.declarations[side]
    clip = declaration.optimizer.clip
    if clip is not None:
        return f"clips by {str(clip.get('type', 'a rule of its own')).replace('_', ' ')}"
    return "after_backward" if declaration.has_after_backward and run.case.declares_after_backward(side) else ""


def _unlocated(run: Run, step: int) -> List[str]:
    """Return a warning where a recorded side keeps no outputs of modules at the step that failed."""
    recording = run.case.against
    if recording is None or "activation" in recording.kinds(step):
        return []
    return [
        f"the recorded {recording.side} side keeps no outputs of modules at step {step}: which module differs first cannot "
        f"be told; record it again with --activations {step}"
    ]


def _place(failure: Comparison, located: Optional[Located]) -> Comparison:
    """Return what to name as the first divergence: the output that differs first, or else what failed.

    Where all outputs agree, a parameter's gradient stays the first divergence; the module that it comes through is said.
    """
    if located is None or located.first is None:
        return failure
    if not located.backward:
        return located.first
    return replace(failure, reason=f"{failure.reason}; {located.way_back}")


def _before_update(
    run: Run, failure: Comparison, located: Optional[Located]
) -> Tuple[Comparison, Optional[Located]]:
    """Return what comes first where modules part after an optimizer's update in the same step: what that update worked on.

    A module that is called then has other weights: if their gradients, state or values differ, those come first, and the
    module's output follows from them.
    """
    judgement = run.first_failed or run.record.failures.first
    if located is None or located.updated is None or judgement is None or judgement.step != failure.step:
        return failure, located
    inside = f"{located.updated}." if located.updated else ""
    earlier = next(
        (
            item
            for item in judgement.comparisons
            if not item.passed and item.kind in UPDATED_KINDS and item.name.startswith(inside)
        ),
        None,
    )
    if earlier is None:
        return failure, located
    return earlier, located if located.backward else replace(located, first=None)


def _clipped(run: Run, failure: Comparison, located: Optional[Located], watcher: Watcher) -> bool:
    """Say whether a loss failed only by paddle's clipped softmax; note the known difference, and what it leaves open."""
    if run.case.file.compare.strict or located is None or located.loss_site is None:
        return False
    known = softmax_clipping(located.loss_site)
    if known is None:
        return False
    assert run.crew is not None and run.session is not None and run.batches is not None
    run.record.known.setdefault((known.code, known.torch_name), known)
    watcher.phase("replaying the other steps whose losses differ")
    failures = list(run.record.failures.comparisons())
    beyond = first_beyond_clipping(
        run.case, run.crew, run.folder, run.session.names, failure, failures, run.batches, watcher.tick
    )
    if beyond is not None:
        run.inconclusive = True
        run.warnings.append(clipping_warning(failure, beyond))
    return True


def _first_unexplained(run: Run, watcher: Watcher) -> Optional[Comparison]:
    first = run.record.first_failure()
    if first is None:
        return None
    if beyond_noise(first) or run.crew is None or run.session is None or run.batches is None:
        return first
    watcher.phase("measuring rounding noise: torch against itself")
    last = max(judgement.step for judgement in run.record.failures)
    last = min(last + steps_ahead(last), run.case.steps - 1) + 1
    try:
        noise = measure_noise(run.case, run.crew, run.folder, run.session.names, last, run.batches, watcher.tick)
    except Interrupted:
        raise
    except StepalignError as error:
        run.warnings.append(f"rounding noise could not be measured, so the tolerances stand alone: {error}")
        return first
    run.noise = noise
    unexplained, blinded = weigh(run.record.failures.comparisons(), noise)
    if unexplained is None:
        run.inconclusive = blinded is not None
        run.warnings.append(describe_noise(first, noise, blinded))
    return unexplained


def judge_what_came(run: Run) -> None:
    """After a failure: say where the finished steps stand; causes from declarations only, no further worker is started."""
    failure = run.record.first_failure()
    if failure is not None:
        run.warnings.append(
            f"before the failure, at step {failure.step}, the sides had diverged: {failure.kind} {failure.name}: {failure.reason}"
        )
        run.causes = explain(_evidence(run), failure, None)
    elif run.record.steps:
        run.warnings.append(f"the {run.record.steps} steps finished before the failure are aligned")


def _evidence(run: Run) -> Evidence:
    assert run.session is not None
    return Evidence(
        run.session.names,
        run.declarations["torch"],
        run.declarations["paddle"],
        run.record,
        run.initial,
        run.findings,
    )
