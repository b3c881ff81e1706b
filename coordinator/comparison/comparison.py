"""One compared value, and a step's worth of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from stepalign.coordinator.comparison.measures import Measures, measure, screen, screen_number
from stepalign.coordinator.comparison.scan import Scan
from stepalign.coordinator.results.result import KnownDifference

AS_USED = "as the optimizer used it"
"""Stands in the reason of a gradient that agrees raw and differs once clipped."""


@dataclass(frozen=True)
class Comparison:
    """A value of one kind at one step. ``measures`` is None where there was nothing to measure; ``reason`` says why.

    ``exact`` marks a comparison that rounding noise cannot explain away: digests, names, dtypes, declared values, and
    updates held against their own rule. ``allowed`` is what ``max_abs`` was held against: atol + rtol * |torch|.
    """

    step: int
    kind: str
    torch_name: Optional[str]
    paddle_name: Optional[str]
    passed: bool
    rtol: float = 0.0
    atol: float = 0.0
    measures: Optional[Measures] = None
    reason: str = ""
    exact: bool = False

    @property
    def name(self) -> str:
        return self.torch_name or self.paddle_name or ""


@dataclass(frozen=True)
class StepJudgement:
    """All comparisons of one step, in causal order, and what was recognised as a difference between the frameworks.

    ``drift`` is the relative L2 difference of the parameters after the step.
    """

    step: int
    comparisons: Tuple[Comparison, ...]
    known: Tuple[KnownDifference, ...] = ()
    drift: float = 0.0

    def first_failure(self) -> Optional[Comparison]:
        """Return the first comparison that did not pass."""
        return next((item for item in self.comparisons if not item.passed), None)


def nearness(item: Comparison) -> Tuple[bool, float]:
    """Return an order of comparisons: failed ones last, then by how near the difference is to what is allowed."""
    if item.measures is None:
        return (not item.passed, -1.0)
    allowed = item.atol + item.rtol * abs(item.measures.reference)
    size = item.measures.max_abs / allowed if allowed else item.measures.max_abs
    return (not item.passed, size if size == size else math.inf)


def compare_values(
    step: int,
    kind: str,
    torch_name: Optional[str],
    paddle_name: Optional[str],
    torch: Optional[np.ndarray],
    paddle: Optional[np.ndarray],
    rtol: float,
    atol: float,
    allow_nonfinite: bool = False,
    exact: bool = False,
    scanned: Optional[Scan] = None,
) -> Comparison:
    """Compare two arrays, of which a scan may be there already; one that is missing, of another shape or of another dtype
    does not pass, and neither does NaN.

    A value that is not finite passes only with ``allow_nonfinite`` and if both sides have the same one at the same
    place.
    """
    about = (step, kind, torch_name, paddle_name)
    if torch is None or paddle is None:
        lacking = "torch" if torch is None else "paddle"
        reason = f"the {lacking} side has no {kind.replace('_', ' ')} {torch_name or paddle_name or ''}"
        return Comparison(*about, False, rtol, atol, None, reason, exact=True)
    if torch.shape != paddle.shape:
        reason = f"shape {list(torch.shape)} on torch, {list(paddle.shape)} on paddle"
        return Comparison(*about, False, rtol, atol, None, reason, exact=True)
    if torch.dtype != paddle.dtype:
        reason = f"dtype {torch.dtype} on torch, {paddle.dtype} on paddle"
        return Comparison(*about, False, rtol, atol, None, reason, exact=True)
    measures = screen(torch, paddle, rtol, atol, scanned) or measure(torch, paddle, rtol, atol)
    passed = measures.outside == 0 and math.isfinite(measures.max_abs)
    reason = ""
    nonfinite = measures.reference_nonfinite or measures.candidate_nonfinite
    if nonfinite and not (allow_nonfinite and not measures.nonfinite_differs):
        passed = False
        reason = (
            f"not finite: {measures.reference_nonfinite} of {measures.count} elements on torch, "
            f"{measures.candidate_nonfinite} on paddle"
        )
    elif not passed:
        reason = (
            f"{measures.outside} of {measures.count} elements out of tolerance; "
            f"greatest difference {measures.max_abs:.3g}" + (f" at {list(measures.index)}" if measures.index else "")
        )
    return Comparison(*about, passed, rtol, atol, measures, reason, exact or bool(nonfinite))


def compare_rate(
    step: int, torch_name: str, paddle_name: str, torch: Optional[float], paddle: Optional[float], rtol: float, atol: float
) -> Comparison:
    """Compare two rates as `compare_values` compares float64 arrays of them."""
    if torch is not None and paddle is not None:
        measures = screen_number(torch, paddle, rtol, atol, is_float32=False)
        if measures is not None:
            return Comparison(step, "lr", torch_name, paddle_name, True, rtol, atol, measures, exact=True)
    ours, theirs = (None if value is None else np.asarray(value, np.float64) for value in (torch, paddle))
    return compare_values(step, "lr", torch_name, paddle_name, ours, theirs, rtol, atol, exact=True)
