"""How far two sides are apart: relative to the way that the parameters have gone, or to the rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stepalign.protocol.messages import Named, StepResult

ROUNDINGS_A_STEP = 2.0
"""Units in the last place of a parameter that rounding may move it by in one step, both sides together."""

FAR = 1e9
"""Stands for an infinite difference: one side is not finite."""


@dataclass(frozen=True)
class Difference:
    """The greatest relative difference of one drive, as it is and beyond rounding of the parameter, and its step."""

    whole: float = 0.0
    beyond: float = 0.0
    step: int = 0

    def worse(self, other: Difference) -> Difference:
        """Return the greatest of each."""
        step = self.step if self.whole >= other.whole else other.step
        return Difference(max(self.whole, other.whole), max(self.beyond, other.beyond), step)


def of_updates(initial: Named, torch: Sequence[StepResult], paddle: Sequence[StepResult]) -> Difference:
    """Compare two drives from the same initial parameters, step by step, over all parameters.

    The measure of step t is max |p_torch - p_paddle| / max |p - p_0|, below both sides' parameters. A value that is not
    finite on one side alone counts as `FAR`.
    """
    worst = Difference()
    for ours, theirs in zip(torch, paddle, strict=True):
        apart = beyond = moved = 0.0
        for name, start in initial.items():
            before = np.asarray(start, np.float64)
            first, second = ours.tensors["parameter"][name], theirs.tensors["parameter"][name]
            with np.errstate(invalid="ignore"):
                gap = np.abs(np.asarray(first, np.float64) - np.asarray(second, np.float64))
                gap[np.isnan(first) & np.isnan(second)] = 0.0
                gap = np.where(np.isnan(gap), np.inf, gap)
                unit = np.spacing(np.maximum(np.abs(first), np.abs(start))).astype(np.float64)
                over = np.maximum(gap - ROUNDINGS_A_STEP * (ours.step + 1) * unit, 0.0)
                moved = max(moved, *(float(np.nanmax(np.abs(side - before), initial=0.0)) for side in (first, second)))
            apart, beyond = max(apart, float(gap.max(initial=0.0))), max(beyond, float(over.max(initial=0.0)))
        worst = worst.worse(Difference(_ratio(apart, moved), _ratio(beyond, moved), ours.step))
    return worst


def of_rates(torch: np.ndarray, paddle: np.ndarray) -> tuple[Difference, Difference]:
    """Compare rates, float64 [steps, groups]; return the differences of float32 and of float64 values.

    Where a rate is about zero, 1e-15 of the greatest rate is rounding.
    """
    return _of_rates(np.float32(torch), np.float32(paddle)), _of_rates(torch, paddle)


def _of_rates(torch: np.ndarray, paddle: np.ndarray) -> Difference:
    ours, theirs = np.asarray(torch, np.float64), np.asarray(paddle, np.float64)
    floor = 1e-15 * float(np.max(np.abs(ours), initial=0.0))
    gap = np.abs(ours - theirs)
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = np.where(gap == 0.0, 0.0, gap / np.maximum(np.abs(ours), floor))
        beyond = np.where(gap <= floor, 0.0, gap / np.maximum(np.abs(ours), floor))
    step = int(np.argmax(whole.max(axis=1)))
    return Difference(float(whole.max()), float(beyond.max()), step)


def _ratio(gap: float, moved: float) -> float:
    if gap == 0.0:
        return 0.0
    return FAR if not math.isfinite(gap) else gap / moved
