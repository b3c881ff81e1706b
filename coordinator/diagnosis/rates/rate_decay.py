"""Explains rates that differ because of the decay: factor, milestones, floor, length, cosine, power, restarts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.rates import rate_shapes as shapes
from stepalign.coordinator.diagnosis.rates.rate_shapes import Rates, fits, same
from stepalign.coordinator.diagnosis.wording import number

_SHOWN = 5
_ROUNDING = 1e-6


def explain_pieces(ours: Rates, theirs: Rates) -> Iterator[Cause]:
    """Explain sequences of constant pieces: step, multi-step and reduce-on-plateau schedules."""
    torch, paddle = shapes.steps_down(ours), shapes.steps_down(theirs)
    if not torch or not paddle or not fits(ours[:1], theirs[:1]):
        return
    torch_steps, paddle_steps = [step for step, _ in torch], [step for step, _ in paddle]
    torch_factors, paddle_factors = {round(f, 9) for _, f in torch}, {round(f, 9) for _, f in paddle}
    if torch_steps == paddle_steps and len(torch_factors) == len(paddle_factors) == 1:
        ours_factor, theirs_factor = torch[0][1], paddle[0][1]
        if not same(ours_factor, theirs_factor):
            yield Cause(
                Category.SCHEDULE,
                "decay_factor",
                0.97,
                f"both change at steps {torch_steps[:_SHOWN]}, torch by {number(ours_factor)} and paddle by "
                f"{number(theirs_factor)}",
                f"gamma={number(ours_factor)} (factor=... for ReduceOnPlateau) in paddle's scheduler",
            )
        return
    if torch_steps != paddle_steps and torch_factors == paddle_factors and len(torch_factors) == 1:
        text = (
            f"both multiply the rate by {number(torch[0][1])}, torch at steps {torch_steps[:_SHOWN]}, "
            f"paddle at steps {paddle_steps[:_SHOWN]}"
        )
        yield Cause(
            Category.SCHEDULE,
            "milestones",
            0.85,
            text,
            "give paddle's StepDecay the same step_size, or MultiStepDecay the same milestones",
        )
        if not _regular(torch_steps) or not _regular(paddle_steps):
            yield Cause(
                Category.SCHEDULE,
                "plateau",
                0.5,
                text,
                "with ReduceOnPlateau: the same patience, threshold and cooldown; paddle does not update the best "
                "metric during "
                "cooldown, so use cooldown=0",
            )


def _regular(steps: list[int]) -> bool:
    return len({later - earlier for earlier, later in zip([0, *steps], steps, strict=False)}) == 1


def explain_decay(ours: Rates, theirs: Rates) -> Iterator[Cause]:
    torch_factor, paddle_factor = shapes.geometric(ours), shapes.geometric(theirs)
    if torch_factor is not None and paddle_factor is not None and abs(torch_factor - paddle_factor) > 1e-9:
        yield Cause(
            Category.SCHEDULE,
            "decay_factor",
            0.97,
            f"the rate is multiplied by {number(torch_factor)} a step in torch and by {number(paddle_factor)} in "
            "paddle",
            f"gamma={number(torch_factor)} in paddle.optimizer.lr.ExponentialDecay(...)",
        )
        return
    in_pieces = shapes.steps_down(ours) is not None
    first = int(np.flatnonzero(~np.isclose(ours, theirs, rtol=1e-9, atol=0.0))[0])
    begin = max(first - 1, 0) if fits(ours[max(first - 1, 0) : first], theirs[max(first - 1, 0) : first]) else first
    ours, theirs = ours[begin:], theirs[begin:]
    clipped = np.maximum(ours, np.min(theirs))
    if fits(theirs, clipped) and np.count_nonzero(theirs == np.min(theirs)) > 1:
        yield _floor(float(np.min(theirs)), f"paddle = max(torch, {number(float(np.min(theirs)))})", 0.95)
        return
    torch_line, paddle_line = shapes.falling_line(ours), shapes.falling_line(theirs)
    if torch_line is not None and paddle_line is not None:
        yield from _lines(begin, ours, torch_line, paddle_line)
        return
    torch_wave, paddle_wave = shapes.cosine(ours), shapes.cosine(theirs)
    if torch_wave is not None and paddle_wave is not None:
        yield from _waves(torch_wave, paddle_wave)
        return
    mapped = None if ours[1:2] > ours[:1] else shapes.affine(ours, theirs)
    if mapped is not None and abs(mapped[0]) > 1e-9 * float(np.max(ours)):
        offset, factor = mapped
        peak = float(np.max(ours))
        same_peak = same(offset + factor * peak, peak)
        yield _floor(
            offset,
            f"paddle = {number(offset)} + {number(factor)} x torch from step {begin}",
            0.93 if same_peak else 0.6,
        )
        return
    exponent = None if in_pieces else shapes.power(ours, theirs)
    if exponent is not None:
        yield Cause(
            Category.SCHEDULE,
            "power",
            0.85,
            f"from step {begin} paddle's share of the peak is torch's to the power {number(exponent)}",
            f"divide power by {number(exponent)} in paddle.optimizer.lr.PolynomialDecay(...)",
        )


def _floor(value: float, evidence: str, confidence: float) -> Cause:
    end = f": the decay ends {number(value)} above torch's end"
    if value < 0.0:
        end = f": the decay ends {number(-value)} below torch's end"
    return Cause(
        Category.SCHEDULE,
        "floor",
        confidence,
        evidence + end,
        "give paddle's schedule torch's last rate: end_lr=0.0 in PolynomialDecay, end_learning_rate=... in "
        "OneCycleLR (both default "
        "to 1e-4), eta_min in CosineAnnealingDecay",
    )


def _lines(begin: int, ours: Rates, torch: shapes.Line, paddle: shapes.Line) -> Iterator[Cause]:
    torch_end, paddle_end = (begin - line.start / line.slope for line in (torch, paddle))
    whole = _whole(paddle_end) and not same(torch_end, paddle_end)
    same_start = same(torch.start, paddle.start)
    if same_start and torch.last == paddle.last < ours.size - 1:
        whole = False
    if whole:
        yield Cause(
            Category.SCHEDULE,
            "decay_length",
            0.9 if same_start else 0.7,
            f"both fall in a line, torch to zero at step {number(torch_end)} and paddle at step {number(paddle_end)}",
            f"decay_steps (or the total of steps) so that paddle's decay ends at step {number(torch_end)}",
        )
    if same_start:
        floor = paddle.start * (1.0 - paddle.slope / torch.slope)
        text = (
            f"both fall in a line from {number(torch.start)}, paddle's slope is {number(paddle.slope / torch.slope)} "
            "of torch's"
        )
        if _possible(floor, ours):
            yield _floor(floor, text, 0.5 if whole else 0.9)
        elif whole and not _whole(torch_end):
            above = torch.start + torch.slope * (paddle_end - begin)
            yield _floor(-above, f"{text}: paddle is at zero at step {number(paddle_end)}", 0.93)


def _whole(step: float) -> bool:
    return abs(step - round(step)) < 1e-6 * abs(step)


def _possible(end: float, ours: Rates) -> bool:
    """Return whether paddle's decay may end at a rate: none ends below zero unless torch's does."""
    return end >= -_ROUNDING * float(np.max(np.abs(ours))) or float(np.min(ours)) < 0.0


def _waves(torch: shapes.Cosine, paddle: shapes.Cosine) -> Iterator[Cause]:
    ratio = paddle.frequency / torch.frequency
    lengths = f"{number(np.pi / torch.frequency)} steps in torch and {number(np.pi / paddle.frequency)} in paddle"
    if abs(ratio - 1.0) < 1e-4:
        peaks = torch.floor + torch.amplitude, paddle.floor + paddle.amplitude
        if abs(paddle.floor - torch.floor) <= shapes.TOLERANCE * max(peaks):
            return
        evidence = (
            f"both fall as a cosine over {number(np.pi / torch.frequency)} steps, to {number(torch.floor)} in torch"
        )
        if _possible(paddle.floor, np.array([torch.amplitude, torch.floor])):
            confidence = 0.95 if same(*peaks) else 0.6
            yield _floor(paddle.floor, f"{evidence} and {number(paddle.floor)} in paddle", confidence)
    elif abs(ratio - 2.0) < 1e-4 or abs(ratio - 0.5) < 1e-4:
        yield Cause(
            Category.SCHEDULE,
            "cosine_cycles",
            0.95,
            f"paddle's cosine turns {number(round(ratio, 4))} times as fast: its half wave takes {lengths}",
            "a half wave falls to zero and ends (num_cycles 0.5 in transformers); paddlenlp's default is a full "
            "wave: use "
            "with_hard_restarts=True, num_cycles=1.0, or LinearWarmup(CosineAnnealingDecay(...))",
        )
    else:
        yield Cause(
            Category.SCHEDULE,
            "decay_length",
            0.93,
            f"both fall as a cosine, its half wave takes {lengths}",
            f"T_max={number(round(float(np.pi / torch.frequency), 3))} in "
            "paddle.optimizer.lr.CosineAnnealingDecay(...)",
        )


def explain_restarts(ours: Rates, theirs: Rates) -> Iterator[Cause]:
    torch, paddle = shapes.jumps_up(ours), shapes.jumps_up(theirs)
    if torch != paddle and fits(ours[:1], theirs[:1]):
        yield Cause(
            Category.SCHEDULE,
            "restarts",
            0.85,
            f"the rate returns to its first value at steps {torch[:_SHOWN] or 'none'} in torch and "
            f"{paddle[:_SHOWN] or 'none'} in paddle",
            "the same T_0 and T_mult in paddle.optimizer.lr.CosineAnnealingWarmRestarts(...), or "
            "CosineAnnealingDecay without restarts",
        )
