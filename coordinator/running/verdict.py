"""Turns what a run gave into its result: facts, first divergence, verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Mapping, Optional, Sequence

import numpy as np

import stepalign
from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.comparison.measures import measure
from stepalign.coordinator.devices.placement import Device
from stepalign.coordinator.results.result import (
    CaseFacts,
    ErrorFacts,
    FirstDivergence,
    Result,
    Series,
    SideFacts,
    Verdict,
)
from stepalign.coordinator.running.recorder import Record, describe_comparison
from stepalign.coordinator.running.run_state import Run
from stepalign.protocol.errors import StepalignError
from stepalign.protocol.messages import WorkerFacts

VERSION = stepalign.__version__


def case_facts(case: Case) -> CaseFacts:
    """Return which case ran, and how."""
    return CaseFacts(case.name, case.steps, case.file.mode, case.file.dtype, case.file.seed)


def side_facts(facts: Optional[WorkerFacts], digests: Sequence[str], extra: Mapping[str, Any]) -> Optional[SideFacts]:
    """Return what a worker proved to be, with the digests of the batches that it saw."""
    if facts is None:
        return None
    return SideFacts(
        framework=facts.framework,
        version=facts.version,
        python=facts.python,
        interpreter=facts.interpreter,
        pid=facts.pid,
        device=facts.device,
        other_frameworks_loaded=facts.other_frameworks_loaded,
        libraries=facts.libraries,
        batch_digests=digests,
        settings=dict(facts.settings),
        extra=dict(extra),
    )


def series_of(record: Record) -> Series:
    """Return the losses and rates, step by step."""
    return Series(
        loss_torch=record.losses[0].each(float),
        loss_paddle=record.losses[1].each(float),
        lr_torch=record.rates[0],
        lr_paddle=record.rates[1],
        lr_pairs=record.rate_pairs,
    )


def divergence_of(item: Comparison) -> FirstDivergence:
    """Return a comparison that did not pass as result.json has it; what was not measured is None."""
    measures = item.measures
    if measures is None:
        return FirstDivergence(
            item.step, item.kind, item.torch_name, item.paddle_name, rtol=item.rtol, atol=item.atol, reason=item.reason
        )
    return FirstDivergence(
        step=item.step,
        kind=item.kind,
        torch_name=item.torch_name,
        paddle_name=item.paddle_name,
        index=measures.index,
        torch=measures.reference,
        paddle=measures.candidate,
        max_abs=measures.max_abs,
        max_rel=measures.max_rel if measures.complete else None,
        rel_l2=measures.rel_l2 if measures.complete else None,
        max_ulp=measures.max_ulp if measures.complete else None,
        rtol=item.rtol,
        atol=item.atol,
        reason=item.reason,
    )


def error_facts(error: BaseException) -> ErrorFacts:
    """Return why a run failed."""
    fault: Dict[str, Any] = getattr(error, "fault", {})
    code = error.exit_code if isinstance(error, StepalignError) else 3
    return ErrorFacts(
        message=str(error),
        side=fault.get("side"),
        step=fault.get("step"),
        phase=fault.get("phase"),
        signal=fault.get("signal"),
        exit_code=code,
    )


def worst_of(record: Record) -> Dict[str, Any]:
    """Return the worst comparison of each kind, in causal order, with all its measures."""
    return {
        kind: {**describe_comparison(_in_full(item, record)), "step": item.step} for kind, item in record.worst.items()
    }


def _in_full(item: Comparison, record: Record) -> Comparison:
    """Return a comparison of two numbers, rates or losses, which every step only screens, with all its measures."""
    measures = item.measures
    if measures is None or measures.complete or item.kind not in ("lr", "loss"):
        return item
    dtype = record.losses[0][item.step].dtype if item.kind == "loss" else np.dtype(np.float64)
    torch, paddle = (np.asarray(value, dtype) for value in (measures.reference, measures.candidate))
    return replace(item, measures=measure(torch, paddle, item.rtol, item.atol))


def result_of(run: Run) -> Result:
    """Return the result of a run as far as it came."""
    verdict = Verdict.ALIGNED
    if run.error is not None:
        verdict = Verdict.FAILED
    elif run.divergence is not None:
        verdict = Verdict.DIVERGED
    elif run.inconclusive:
        verdict = Verdict.INCONCLUSIVE
    extra = run.crew.placement.devices if run.crew is not None else {}
    recording = run.case.against
    more = {side: _device_facts(extra.get(side)) for side in ("torch", "paddle")}
    if recording is not None:
        more[recording.side]["recorded"] = recording.made
    return Result(
        stepalign=VERSION,
        verdict=verdict,
        case=case_facts(run.case),
        steps_completed=run.record.steps,
        torch=side_facts(run.facts.get("torch"), run.record.batch_digests[0], more["torch"]),
        paddle=side_facts(run.facts.get("paddle"), run.record.batch_digests[1], more["paddle"]),
        series=series_of(run.record),
        first_divergence=run.divergence if verdict is Verdict.DIVERGED else None,
        known_differences=tuple(run.record.known.values()),
        causes=tuple(run.causes),
        findings=tuple(run.findings),
        warnings=tuple(run.warnings),
        compared=run.compared,
        worst=worst_of(run.record),
        error=error_facts(run.error) if run.error is not None else None,
        resumed=run.resumed,
    )


def _device_facts(device: object) -> Dict[str, object]:
    if not isinstance(device, Device):
        return {}
    return {"gpu": device.gpu_uuid, "cores": list(device.cores), "threads": device.threads}
