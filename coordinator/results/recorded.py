"""Compares the torch side of one recorded run with the paddle side of another, by what run folders keep: rates and
losses.
"""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import numpy as np

from stepalign.coordinator.comparison.comparison import Comparison, compare_values
from stepalign.coordinator.comparison.rates import compare_rates
from stepalign.coordinator.comparison.tolerances import tolerances
from stepalign.coordinator.results.result import Result, Series, SideFacts, Verdict
from stepalign.coordinator.results.result_json import load_result
from stepalign.coordinator.running.verdict import VERSION, divergence_of
from stepalign.protocol.errors import CaseError


def compare_runs(reference: Path, candidate: Path) -> Result:
    """Return the result of comparing ``reference``'s torch side with ``candidate``'s paddle side.

    Raises CaseError if the two are not of one dtype and mode, saw other batches, or hold nothing to compare.
    """
    ours, theirs = load_result(reference), load_result(candidate)
    torch, paddle = _side(ours.torch, reference, "torch"), _side(theirs.paddle, candidate, "paddle")
    if torch.framework == paddle.framework:
        raise CaseError(f"compare: both sides are {torch.framework}: a side compared with itself shows nothing")
    for key in ("mode", "dtype"):
        if getattr(ours.case, key) != getattr(theirs.case, key):
            raise CaseError(
                f"compare: {key} is {getattr(ours.case, key)} in {reference}, {getattr(theirs.case, key)} in {candidate}"
            )
    steps = min(ours.steps_completed, theirs.steps_completed)
    if not steps:
        raise CaseError("compare: a run without a finished step holds nothing to compare")
    comparisons = [
        *_compare_batches(torch, paddle),
        *_compare_lengths(ours, theirs),
        *_compare_series(ours, theirs),
    ]
    failures = sorted((item for item in comparisons if not item.passed), key=lambda item: item.step)
    return Result(
        stepalign=VERSION,
        verdict=Verdict.DIVERGED if failures else Verdict.ALIGNED,
        case=ours.case,
        steps_completed=steps,
        torch=torch,
        paddle=paddle,
        series=Series(
            ours.series.loss_torch,
            theirs.series.loss_paddle,
            ours.series.lr_torch,
            theirs.series.lr_paddle,
            tuple(_group_pairs(ours, theirs)),
        ),
        first_divergence=divergence_of(failures[0]) if failures else None,
        compared={"recorded": f"rates and losses of {steps} steps; batches by digest"},
        warnings=_warnings(ours, theirs),
    )


def _side(side: Optional[SideFacts], folder: Path, name: str) -> SideFacts:
    if side is None:
        raise CaseError(f"compare: {folder} has no {name} side: its run failed before that side said who it is")
    return side


def _compare_batches(torch: SideFacts, paddle: SideFacts) -> List[Comparison]:
    pairs = zip(torch.batch_digests, paddle.batch_digests)
    return [
        Comparison(
            step,
            "batch",
            "batch",
            "batch",
            ours == theirs,
            reason="" if ours == theirs else "other batches",
            exact=True,
        )
        for step, (ours, theirs) in enumerate(pairs)
    ]


def _compare_lengths(ours: Result, theirs: Result) -> List[Comparison]:
    counts = ours.steps_completed, theirs.steps_completed
    if counts[0] == counts[1]:
        return []
    reason = f"{counts[0]} steps on torch, {counts[1]} on paddle"
    return [Comparison(min(counts), "loss", "loss", "loss", False, reason=reason, exact=True)]


def _compare_series(ours: Result, theirs: Result) -> List[Comparison]:
    table = tolerances(ours.case.dtype, {})
    found = [
        compare_values(
            step, "loss", "loss", "loss", _number(torch), _number(paddle), table["loss"].rtol, table["loss"].atol
        )
        for step, (torch, paddle) in enumerate(zip(ours.series.loss_torch, theirs.series.loss_paddle))
    ]
    steps = min(len(ours.series.lr_torch), len(theirs.series.lr_paddle))
    rates = [_table(list(side)[:steps]) for side in (ours.series.lr_torch, theirs.series.lr_paddle)]
    if steps:
        pairs = _group_pairs(ours, theirs)
        if pairs:
            rates = [side[:, [pair[number] for pair in pairs]] for number, side in enumerate(rates)]
        found += compare_rates(rates[0], rates[1], table["lr"])
    return found


def _group_pairs(ours: Result, theirs: Result) -> Sequence[Tuple[int, int]]:
    """Return which groups belong together, if both runs say the same; empty: those of the same number."""
    return ours.series.lr_pairs if ours.series.lr_pairs == theirs.series.lr_pairs else ()


def _number(value: Optional[float]) -> Optional[np.ndarray]:
    return None if value is None else np.asarray(value, np.float64)


def _table(rows: Sequence[Optional[Sequence[float]]]) -> np.ndarray:
    width = max((len(row) for row in rows if row is not None), default=0)
    return np.array([list(row) if row is not None else [np.nan] * width for row in rows], np.float64)


def _warnings(ours: Result, theirs: Result) -> "tuple[str, ...]":
    if ours.case.name != theirs.case.name:
        return (f"the cases have different names: {ours.case.name}, {theirs.case.name}",)
    return ()
