"""Explains rates that differ because of the warm-up: missing, of another length, start or index."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.rates import rate_shapes as shapes
from stepalign.coordinator.diagnosis.rates.rate_shapes import Rates, fits, same
from stepalign.coordinator.diagnosis.wording import number


def explain_warmup(ours: Rates, theirs: Rates) -> Iterator[Cause]:
    torch, paddle = shapes.ramp(ours), shapes.ramp(theirs)
    if torch is not None and paddle is None and not theirs[1] > theirs[0]:
        peak = float(ours[torch.last])
        reaches = torch.last < ours.size - 1 and not fits(np.array([peak]), theirs[:1])
        yield Cause(
            Category.SCHEDULE,
            "warmup_missing",
            0.75 if reaches else 0.94,
            f"torch's rate rises by {number(torch.slope)} a step until step {torch.last}; paddle starts at "
            f"{number(float(theirs[0]))}",
            "wrap the schedule in paddle.optimizer.lr.LinearWarmup(learning_rate=..., warmup_steps=..., "
            "start_lr=..., end_lr=...)",
        )
    if paddle is not None and torch is None and not ours[1] > ours[0]:
        yield Cause(
            Category.SCHEDULE,
            "warmup_added",
            0.94,
            f"paddle's rate rises by {number(paddle.slope)} a step until step {paddle.last}; torch starts at "
            f"{number(float(ours[0]))}",
            "remove LinearWarmup from paddle's schedule",
        )
    if torch is not None and paddle is not None:
        yield from _two_ramps(ours, theirs, torch, paddle)


def _two_ramps(ours: Rates, theirs: Rates, torch: shapes.Line, paddle: shapes.Line) -> Iterator[Cause]:
    end = ours.size - 1
    same_slope = same(torch.slope, paddle.slope)
    same_start = abs(torch.start - paddle.start) <= 1e-9 * abs(float(ours[torch.last]))
    if same_slope and not same_start:
        shift = (torch.start - paddle.start) / torch.slope
        if abs(shift - round(shift)) < 1e-6 and abs(round(shift)) <= 2:
            rest = max(torch.last, paddle.last) + 1
            agree = rest <= end and fits(ours[rest:], theirs[rest:])
            yield Cause(
                Category.SCHEDULE,
                "warmup_index",
                0.95 if agree else 0.6,
                f"during warm-up paddle has torch's rate of step i{-round(shift):+d}"
                + ("; after it both agree" if agree else ""),
                "count the warm-up from the same index: i / warmup_steps and (i + 1) / warmup_steps differ by one step",
            )
    reached = torch.last < end and paddle.last < end
    if reached and not same_slope and same(float(ours[torch.last]), float(theirs[paddle.last])):
        peak = number(float(ours[torch.last]))
        if same_start and torch.last != paddle.last:
            yield Cause(
                Category.SCHEDULE,
                "warmup_length",
                0.95,
                f"both rise from {number(torch.start)} to {peak}, torch in {torch.last} steps and paddle in "
                f"{paddle.last}",
                f"warmup_steps={torch.last} in paddle.optimizer.lr.LinearWarmup(...)",
            )
        elif torch.last == paddle.last:
            yield _start(torch, paddle, f"both reach {peak} at step {torch.last}", 0.95)
        else:
            evidence = (
                f"torch rises from {number(torch.start)} in {torch.last} steps, paddle from {number(paddle.start)} "
                f"in {paddle.last}"
            )
            fix = f"warmup_steps={torch.last}, start_lr={number(torch.start)} in paddle.optimizer.lr.LinearWarmup(...)"
            yield Cause(Category.SCHEDULE, "warmup_length", 0.85, evidence, fix)
    if not same_slope and not reached:
        ratio = torch.slope / paddle.slope
        common_zero = same(torch.start * paddle.slope, paddle.start * torch.slope) or (
            torch.start == paddle.start == 0.0
        )
        if same_start or common_zero:
            yield Cause(
                Category.SCHEDULE,
                "warmup_length",
                0.8 if same_start and torch.start else 0.65,
                f"both still rise; paddle's warm-up takes {number(ratio)} times torch's steps (slopes "
                f"{number(torch.slope)} and "
                f"{number(paddle.slope)} a step), if both end at one rate",
                "warmup_steps as in torch in paddle.optimizer.lr.LinearWarmup(...)",
            )
        else:
            meeting = (paddle.start - torch.start) / (torch.slope - paddle.slope)
            if meeting > min(torch.last, paddle.last) and abs(meeting - round(meeting)) < 1e-3:
                yield _start(torch, paddle, f"the two lines meet at step {round(meeting)}", 0.75)


def _start(torch: shapes.Line, paddle: shapes.Line, meeting: str, confidence: float) -> Cause:
    return Cause(
        Category.SCHEDULE,
        "warmup_start",
        confidence,
        f"warm-up starts at {number(torch.start)} in torch and at {number(paddle.start)} in paddle; {meeting}",
        f"start_lr={number(torch.start)} in paddle.optimizer.lr.LinearWarmup(...)",
    )
