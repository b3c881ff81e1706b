"""Losses and rates by step, as every view tabulates them.

Guarantees: a step that only one side has is a row with None on the other; of several rate groups a row bears the one
that is furthest apart at that step; a selection keeps the first steps, the last ones and those that matter, in order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from stepalign.coordinator.results.result import Result, Series

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class StepRow:
    """One step of both sides. ``loss_difference`` is absolute, ``rate_difference`` relative to torch's rate.

    ``group`` is the rate group shown, or None where a side has no rate. What one side lacks is None, and so is a
    difference that cannot be taken.
    """

    step: int
    torch_loss: float | None
    paddle_loss: float | None
    loss_difference: float | None
    torch_rate: float | None
    paddle_rate: float | None
    rate_difference: float | None
    group: int | None


def step_count(series: Series) -> int:
    """Return how many steps the longest of the series has."""
    return max(map(len, (series.loss_torch, series.loss_paddle, series.lr_torch, series.lr_paddle)))


def group_count(series: Series) -> int:
    """Return how many rate groups the side with more of them has."""
    return max((len(rates) for side in (series.lr_torch, series.lr_paddle) for rates in side if rates), default=0)


def step_row(series: Series, step: int) -> StepRow:
    """Return one step's row."""
    torch_loss, paddle_loss = _at(series.loss_torch, step), _at(series.loss_paddle, step)
    rates = _furthest_rates(_at(series.lr_torch, step) or (), _at(series.lr_paddle, step) or (), series.lr_pairs)
    return StepRow(step, torch_loss, paddle_loss, absolute(torch_loss, paddle_loss), *rates)


def absolute(torch: float | None, paddle: float | None) -> float | None:
    """Compute |torch - paddle|: 0 for two equal infinities, NaN where either is NaN, None where one is missing."""
    if torch is None or paddle is None:
        return None
    return 0.0 if torch == paddle else abs(torch - paddle)


def relative(torch: float | None, paddle: float | None) -> float | None:
    """Compute |torch - paddle| / |torch|: infinite for a difference from zero, NaN or None as `absolute` does."""
    difference = absolute(torch, paddle)
    if torch is None or not difference:
        return difference
    if math.isinf(torch):
        return math.inf
    return difference / abs(torch) if torch else math.inf


def chosen_steps(count: int, room: int, important: Iterable[int] = (), evenly: bool = False) -> list[int]:
    """Choose at most ``room`` (6 or more) of ``count`` steps, in order: the last two, the important, then the first.

    With ``evenly`` the steps that are left to choose are spread over the whole length.
    """
    if count <= room:
        return list(range(count))
    chosen = {0, count - 2, count - 1}
    for step in important:
        if len(chosen) < room and 0 <= step < count:
            chosen.add(step)
    left = room - len(chosen)
    spread = ((index + 1) * count // (left + 1) for index in range(left)) if evenly else range(count)
    for step in spread:
        if len(chosen) < room:
            chosen.add(step)
    return sorted(chosen)


def around_divergence(result: Result) -> list[int]:
    """Return the step of the first divergence, then its neighbours, or nothing."""
    if result.first_divergence is None:
        return []
    step = result.first_divergence.step
    return [step, step - 1, step + 1]


def _furthest_rates(
    torch: Sequence[float], paddle: Sequence[float], pairs: Sequence[tuple[int, int]]
) -> tuple[float | None, float | None, float | None, int | None]:
    furthest: tuple[float | None, float | None, float | None, int | None] = (None, None, None, None)
    greatest = -1.0
    for group, partner in pairs or [(number, number) for number in range(max(len(torch), len(paddle)))]:
        ours, theirs = _at(torch, group), _at(paddle, partner)
        difference = relative(ours, theirs)
        size = math.inf if difference is None or math.isnan(difference) else difference
        if size > greatest:
            greatest = size
            furthest = (ours, theirs, difference, group)
    return furthest


def _at(values: Sequence[_Item | None], index: int) -> _Item | None:
    return values[index] if 0 <= index < len(values) else None
