"""Whether one side's update is what the optimizer rule makes of that side's own inputs, and by how much it is not.

Allowed are: the roundings of the parameter itself, in ULPs; a few epsilons of the terms that made the update; and
what frameworks are known to do to hyper-parameters. paddle's kernels keep hyper-parameters as float32 in float64 models
too (paddle 3.3.1), and powers of the betas in the parameter's precision, which scales a whole tensor's update by one
factor close to 1. Measured over 50 steps, six gradient regimes and 16 optimizers on both frameworks, in float32 and
float64 (torch 2.13.0, paddle 3.3.1, CPU): a correct parameter stayed below 0.97 of an allowance of 8 epsilons, most of
it the half ULP that rounding may always take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from stepalign.coordinator.comparison.adam_update import AdamUpdate, adam_update, sample_ranks
from stepalign.coordinator.comparison.blocks import lane_sum
from stepalign.coordinator.comparison.compiled import TallySums
from stepalign.coordinator.comparison.rounded_hyperparameters import correction_slack, rounded_hyperparameters
from stepalign.coordinator.comparison.rule_inputs import Float64Array, Prediction
from stepalign.coordinator.comparison.tally import Tally, UpdateResidual, half_ulps
from stepalign.coordinator.comparison.update_numbers import Elements, UpdateNumbers
from stepalign.coordinator.comparison.update_rules import predict
from stepalign.protocol.specs import Scalar

UPDATE_EPSILONS = 64.0
"""Small tensors stay below 8; the worst of the eight million elements of an embedding came to 26 in 40 steps of AdamW."""

STATE_EPSILONS = 8.0
CHUNK_ELEMENTS = 1 << 15
_FACTOR_SAMPLE = 4096
_COUNTS_KEPT = 64
_SCALAR_SLOTS = frozenset({"step", "mu_product", "eta"})


@dataclass(frozen=True)
class UpdateJudgement:
    """One parameter's step on one side against the rule. ``variant`` names the known rounding of hyper-parameters that
    made it fit (``float32_hyperparameters``, ``float32_weight_decay``, ``float32_betas``, ``float32_scalars``), empty
    where none was needed. ``missing_slots`` are slots that the rule keeps and the side does not: it runs another rule.
    """

    parameter: UpdateResidual
    state: Mapping[str, UpdateResidual] = field(default_factory=dict)
    variant: str = ""
    missing_slots: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Say whether the parameter and every slot are as the rule says."""
        return not self.missing_slots and self.parameter.fits and all(slot.fits for slot in self.state.values())

    @property
    def worst(self) -> float:
        """Return the greatest quotient of residual and allowance over parameter, its drift and all slots."""
        drift = abs(self.parameter.drift) / self.parameter.drift_allowed if self.parameter.drift_allowed else 0.0
        return max(self.parameter.worst, drift, *(slot.worst for slot in self.state.values()), 0.0)


def residual(
    predicted: Prediction, actual: np.ndarray, before: np.ndarray, dtype: str, factor: float = 0.0
) -> UpdateResidual:
    """Return what is left of ``actual``, a parameter after its update, when the prediction is taken out.

    actual, before: the prediction's shape. dtype: of the parameter in its framework (``float32``, ``float64``).
    factor: a common relative factor on the update that was found beforehand.
    """
    tally = Tally(predicted.parameter.shape)
    with np.errstate(all="ignore"):
        _tally_parameter(tally, predicted, actual, before, dtype, factor)
        return tally.result(factor, _drift_bias(predicted.parameter_roundings, dtype))


def state_residual(predicted: Prediction, actual: Mapping[str, np.ndarray], dtype: str) -> dict[str, UpdateResidual]:
    """Return what is left of each slot that both the prediction and ``actual`` have."""
    found = {}
    with np.errstate(all="ignore"):
        for slot in sorted(predicted.state.keys() & actual.keys()):
            tally = Tally(predicted.state[slot].shape)
            _tally_slot(tally, predicted, slot, actual[slot], dtype)
            found[slot] = tally.result()
    return found


def judge_update(
    rule: str,
    hyper: Mapping[str, Scalar],
    before: np.ndarray,
    gradient: np.ndarray,
    state_before: Mapping[str, np.ndarray],
    after: np.ndarray,
    state_after: Mapping[str, np.ndarray],
    lr: float,
    step: int,
    dtype: str,
    likely: str = "",
    chosen: Elements | None = None,
) -> UpdateJudgement | None:
    """Hold one parameter's step against the rule, allowing known roundings of hyper-parameters; None: unknown rule.

    Arrays have the parameter's shape (slots may be 0-d). Works in chunks whose temporaries stay
    in the cache. Raises ValueError when shapes differ. Where no variant fits everything, each slot
    stands as the variant that suits it best has it: a known rounding must not be blamed beside a mistake elsewhere.
    ``likely`` names the variant to try first; what does not fit it is held against all of them in order. ``chosen``:
    flat indices of the elements to judge, in rising order; None: all.
    """
    numbers = UpdateNumbers(before, gradient, state_before, after, state_after, lr, step, dtype, chosen)
    if likely:
        values = dict(rounded_hyperparameters(rule, hyper)).get(likely)
        if values is not None:
            judgement = _judge(rule, values, numbers, likely)
            if judgement is not None and judgement.fits:
                return judgement
    best: UpdateJudgement | None = None
    slots: dict[str, UpdateResidual] = {}
    for variant, values in rounded_hyperparameters(rule, hyper):
        judgement = _judge(rule, values, numbers, variant)
        if judgement is None or judgement.fits:
            return judgement
        for slot, item in judgement.state.items():
            if slot not in slots or item.worst < slots[slot].worst:
                slots[slot] = item
        best = judgement if best is None or judgement.parameter.worst < best.parameter.worst else best
    return None if best is None else replace(best, state=slots)


def _judge(rule: str, hyper: Mapping[str, Scalar], numbers: UpdateNumbers, variant: str) -> UpdateJudgement | None:
    compiled = adam_update(rule, hyper, numbers, UPDATE_EPSILONS, STATE_EPSILONS)
    if compiled is not None:
        judgement = _judge_compiled(compiled, rule, hyper, numbers, variant)
        if judgement is not None:
            return judgement
    size, flat, (olds, news) = numbers.count, numbers.flat, numbers.flat_states

    def part(values: Mapping[str, np.ndarray], at: Elements | slice) -> dict[str, np.ndarray]:
        return {slot: value[at] if value.size == size else value for slot, value in values.items()}

    sample = _factor_sample(flat["before"], flat["after"])
    lr, step, dtype = numbers.lr, numbers.step, numbers.dtype
    first = predict(rule, hyper, flat["before"][sample], flat["gradient"][sample], part(olds, sample), lr, step)
    if first is None:
        return None
    factor = _common_factor(
        first, flat["after"][sample], flat["before"][sample], correction_slack(rule, hyper, dtype), dtype
    )
    tally = Tally(numbers.before.shape)
    slots: dict[str, Tally] = {}
    with np.errstate(all="ignore"):
        for start in range(0, size, CHUNK_ELEMENTS):
            window = slice(start, start + CHUNK_ELEMENTS)
            here = flat["before"][window]
            predicted = predict(rule, hyper, here, flat["gradient"][window], part(olds, window), lr, step)
            assert predicted is not None
            _tally_parameter(tally, predicted, flat["after"][window], here, dtype, factor)
            actual = part(news, window)
            for slot in sorted(predicted.state.keys() & actual.keys()):
                if slot not in slots:
                    slots[slot] = Tally(numbers.slot_shape(slot))
                elif news[slot].size != size:
                    continue
                _tally_slot(slots[slot], predicted, slot, actual[slot], dtype)
        return UpdateJudgement(
            tally.result(factor, _drift_bias(first.parameter_roundings, dtype), numbers.chosen),
            {slot: slot_tally.result(chosen=numbers.chosen_of(slot)) for slot, slot_tally in slots.items()},
            variant,
            tuple(sorted(first.state.keys() - news.keys() - _SCALAR_SLOTS)),
        )


def _judge_compiled(
    update: AdamUpdate, rule: str, hyper: Mapping[str, Scalar], numbers: UpdateNumbers, variant: str
) -> UpdateJudgement | None:
    """Do what `_judge` does by the compiled loops; None where something is not finite."""
    factor = _best_factor(*update.factor_sums(_FACTOR_SAMPLE), correction_slack(rule, hyper, numbers.dtype))
    if not update.tally(factor, CHUNK_ELEMENTS):
        return None

    def result(sums: TallySums, shape: tuple[int, ...], factor: float = 0.0, drift_bias: float = 0.0) -> UpdateResidual:
        return Tally(shape, sums).result(factor, drift_bias, numbers.chosen, numbers.count)

    state = {slot: result(getattr(update, slot), numbers.slot_shape(slot)) for slot in ("moment1", "moment2")}
    counted = numbers.whole_state[1].get("step")
    if counted is not None:
        state["step"] = _residual_of_count(update.updates + 1.0, counted.tobytes(), counted.dtype, counted.shape, numbers.dtype)
    bias = _drift_bias(update.roundings, numbers.dtype)
    return UpdateJudgement(result(update.parameter, numbers.before.shape, factor, bias), state, variant)


@lru_cache(_COUNTS_KEPT)
def _residual_of_count(
    expected: float, counted: bytes, kept: np.dtype[Any], shape: tuple[int, ...], dtype: str
) -> UpdateResidual:
    """Return what is left of a count of updates, which all parameters have in common; ``counted`` as ``kept`` holds it."""
    count = np.asarray(expected)
    actual = np.frombuffer(counted, kept).reshape(shape)
    return state_residual(Prediction(count, {"step": count}, count, {"step": count}), {"step": actual}, dtype)["step"]


def _factor_sample(before: np.ndarray, after: np.ndarray) -> Elements:
    """Return where to look for a common factor: evenly among the elements that moved; rows of no gradient tell
    nothing.
    """
    moved = np.flatnonzero(before != after)
    if not moved.size:
        moved = np.arange(before.size)
    chosen: Elements = moved[sample_ranks(moved.size, _FACTOR_SAMPLE)]
    return chosen


def _common_factor(predicted: Prediction, after: np.ndarray, before: np.ndarray, slack: float, dtype: str) -> float:
    """Return the one relative factor on the update that fits best, within ``slack``; 0 where none is needed."""
    if slack == 0.0:
        return 0.0
    start, end = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    update = predicted.parameter - start if predicted.correction is None else -predicted.correction
    with np.errstate(all="ignore"):
        usable = np.isfinite(predicted.parameter) & np.isfinite(end) & (update != 0.0)
        below = _ulps(start, end, dtype) + UPDATE_EPSILONS * np.finfo(dtype).eps * np.abs(update)
        weight = np.divide(1.0, np.square(below))
        total = lane_sum(np.where(usable, weight * np.square(update), 0.0))
        along = lane_sum(np.where(usable, weight * update * (end - predicted.parameter), 0.0))
    return _best_factor(total, along, slack)


def _best_factor(total: float, along: float, slack: float) -> float:
    best = along / total if total > 0.0 else 0.0
    return float(np.clip(best, -slack, slack))


def _ulps(before: Float64Array, after: Float64Array, dtype: str) -> Float64Array:
    size = np.maximum(np.abs(before), np.abs(after)).astype(dtype)
    spacing: Float64Array = np.spacing(size).astype(np.float64)
    return spacing


def _drift_bias(roundings: int, dtype: str) -> float:
    """Return the relative error of 1 - lr * wd rounded to ``dtype``, where the rule multiplies by it."""
    return 0.3 * float(np.finfo(dtype).eps) if roundings > 2 else 0.0


def _tally_parameter(
    tally: Tally, predicted: Prediction, actual: np.ndarray, before: np.ndarray, dtype: str, factor: float
) -> None:
    start = np.asarray(before, dtype=np.float64).reshape(-1)
    end = np.asarray(actual, dtype=np.float64).reshape(-1)
    expected, scale = predicted.parameter.reshape(-1), predicted.scale.reshape(-1)
    update = expected - start
    direction = update if predicted.correction is None else -predicted.correction.reshape(-1)
    eps = float(np.finfo(dtype).eps)
    ulps = half_ulps(predicted.parameter_roundings, eps) * _ulps(start, end, dtype)
    slope = UPDATE_EPSILONS * eps * scale
    left = tally.add(expected + factor * direction, end, ulps + slope, update)
    tally.add_drift(left, start, 0.5 * ulps, slope)


def _tally_slot(tally: Tally, predicted: Prediction, slot: str, actual: np.ndarray, dtype: str) -> None:
    values = np.asarray(actual, dtype=np.float64).reshape(-1)
    expected = np.broadcast_to(predicted.state[slot].reshape(-1), values.shape)
    scale = np.broadcast_to(predicted.state_scale[slot].reshape(-1), values.shape)
    kept = np.asarray(actual).dtype
    info = np.finfo(kept if kept.kind == "f" and kept.itemsize < np.dtype(dtype).itemsize else dtype)
    allowed = STATE_EPSILONS * float(info.eps) * scale + float(info.tiny)
    tally.add(expected, values, allowed, expected)
