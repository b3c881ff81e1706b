"""Whether one side's update is what the optimizer rule makes of that side's own inputs, and by how much it is not.

Allowed are: the roundings of the parameter itself, in ULPs; a few epsilons of the terms that made the update; and
what frameworks are known to do to hyper-parameters. paddle's kernels keep hyper-parameters as float32 in float64 models
too (paddle 3.3.1), and powers of the betas in the parameter's precision, which scales a whole tensor's update by one
factor close to 1. Measured over 50 steps, six gradient regimes and 16 optimizers on both frameworks, in float32 and
float64 (torch 2.13.0, paddle 3.3.1, CPU): a correct parameter stayed below 0.97 of an allowance of 8 epsilons, most of
it the half ULP that rounding may always take.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.comparison.measures import dot
from stepalign.coordinator.comparison.rule_inputs import Float64Array, Hyperparameters, Prediction, canonical_slots
from stepalign.coordinator.comparison.update_rules import predict
from stepalign.protocol.specs import Scalar

UPDATE_EPSILONS = 64.0
"""Small tensors stay below 8; the worst of the eight million elements of an embedding came to 26 in 40 steps of AdamW."""

STATE_EPSILONS = 8.0
CHUNK_ELEMENTS = 1 << 20
_FACTOR_SAMPLE = 4096
_DRIFT_SIGMAS = 15.0
_NEGLIGIBLE_FACTOR = 1e-11
_SCALAR_SLOTS = frozenset({"step", "mu_product", "eta"})


@dataclass(frozen=True)
class UpdateResidual:
    """What is left of an array after its prediction is taken out.

    ``worst`` is the greatest quotient of residual and allowance, ``index`` where it is (with ``predicted``, ``actual``,
    ``allowed``), ``outside`` the share of elements above 1. ``rel_l2_of_update`` is the residual's L2 norm over the
    predicted update's. ``factor`` is what one common factor on the update explained. ``drift`` is the residual's
    projection on the parameter (a missing decay of lr * wd shows as it long before any element does).
    """

    max_abs: float
    index: tuple[int, ...]
    predicted: float
    actual: float
    allowed: float
    worst: float
    outside: float
    rel_l2_of_update: float
    factor: float = 0.0
    drift: float = 0.0
    drift_allowed: float = 0.0

    @property
    def fits(self) -> bool:
        """Say whether every element, and the drift, are within what is allowed."""
        return self.worst <= 1.0 and abs(self.drift) <= self.drift_allowed


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


class _Tally:
    """Sums over chunks of one array; `result` turns them into an `UpdateResidual`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._offset = 0
        self._max_abs = 0.0
        self._worst = (-1.0, 0, 0.0, 0.0, 0.0)
        self._outside = 0
        self._squares = self._update_squares = 0.0
        self._along = self._parameter_squares = self._slope = self._noise = 0.0

    def add(
        self,
        predicted: Float64Array,
        actual: Float64Array,
        allowed: Float64Array,
        update: Float64Array,
    ) -> Float64Array:
        """Take in one flat chunk; return its residual."""
        difference = actual - predicted
        size = np.abs(difference)
        largest = float(size.max(initial=0.0))
        if math.isfinite(largest) and allowed.min(initial=1.0) > 0.0:
            quotient = np.divide(size, allowed, out=size)
        else:
            quotient, largest = self._resolve_nonfinite(difference, predicted, actual, allowed)
        worst = -1.0
        if quotient.size:
            at = int(np.argmax(quotient))
            worst = float(quotient[at])
            if worst > self._worst[0]:
                here = (float(predicted[at]), float(actual[at]), float(allowed[at]))
                self._worst = (worst, self._offset + at, *here)
            self._max_abs = max(self._max_abs, largest)
        if not worst <= 1.0:
            self._outside += int(np.count_nonzero(quotient > 1.0))
        self._squares += float(np.sum(np.square(difference)))
        self._update_squares += float(np.sum(np.square(update)))
        self._offset += int(difference.size)
        return difference

    @staticmethod
    def _resolve_nonfinite(
        difference: Float64Array, predicted: Float64Array, actual: Float64Array, allowed: Float64Array
    ) -> tuple[Float64Array, float]:
        """Return the quotients and the largest residual where something is not finite or nothing is allowed; equal
        values, NaN with NaN among them, differ by nothing, which is noted in ``difference``.
        """
        same = (predicted == actual) | (np.isnan(predicted) & np.isnan(actual))
        difference[same] = 0.0
        size = np.abs(difference)
        quotient = np.where(size == 0.0, 0.0, size / allowed)
        quotient[np.isnan(quotient)] = np.inf
        return quotient, float(np.max(np.where(np.isnan(size), np.inf, size), initial=0.0))

    def add_drift(self, residual: Float64Array, before: Float64Array, ulps: Float64Array, slope: Float64Array) -> None:
        """Project the residual on the parameter; ``ulps`` is its random part, ``slope`` its systematic allowance."""
        self._along += dot(residual, before)
        self._parameter_squares += dot(before, before)
        self._slope += dot(slope, np.abs(before))
        self._noise += dot(np.square(ulps), np.square(before))

    def result(self, factor: float, drift_bias: float) -> UpdateResidual:
        worst, at, predicted, actual, allowed = self._worst
        index = tuple(int(i) for i in np.unravel_index(at, self._shape)) if self._offset else ()
        drift = drift_allowed = 0.0
        if self._parameter_squares > 0.0:
            drift = self._along / self._parameter_squares
            drift_allowed = drift_bias + (self._slope + _DRIFT_SIGMAS * self._noise**0.5) / self._parameter_squares
        relative = (self._squares / self._update_squares) ** 0.5 if self._update_squares else float(self._squares > 0)
        return UpdateResidual(
            self._max_abs,
            index,
            predicted,
            actual,
            allowed,
            max(worst, 0.0),
            self._outside / self._offset if self._offset else 0.0,
            relative,
            factor,
            drift,
            drift_allowed,
        )


def residual(
    predicted: Prediction, actual: np.ndarray, before: np.ndarray, dtype: str, factor: float = 0.0
) -> UpdateResidual:
    """Return what is left of ``actual``, a parameter after its update, when the prediction is taken out.

    actual, before: the prediction's shape. dtype: of the parameter in its framework (``float32``, ``float64``).
    factor: a common relative factor on the update that was found beforehand.
    """
    tally = _Tally(predicted.parameter.shape)
    with np.errstate(all="ignore"):
        _tally_parameter(tally, predicted, actual, before, dtype, factor)
        return tally.result(factor, _drift_bias(predicted, dtype))


def state_residual(predicted: Prediction, actual: Mapping[str, np.ndarray], dtype: str) -> dict[str, UpdateResidual]:
    """Return what is left of each slot that both the prediction and ``actual`` have."""
    found = {}
    with np.errstate(all="ignore"):
        for slot in predicted.state.keys() & actual.keys():
            tally = _Tally(predicted.state[slot].shape)
            _tally_slot(tally, predicted, slot, actual[slot], dtype)
            found[slot] = tally.result(0.0, 0.0)
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
) -> UpdateJudgement | None:
    """Hold one parameter's step against the rule, allowing known roundings of hyper-parameters; None: unknown rule.

    Arrays have the parameter's shape (slots may be 0-d). Works in chunks, so temporaries stay near
    20 * `CHUNK_ELEMENTS` * 8 bytes. Raises ValueError when shapes differ. Where no variant fits everything, each slot
    stands as the variant that suits it best has it: a known rounding must not be blamed beside a mistake elsewhere.
    ``likely`` names the variant to try first; what does not fit it is held against all of them in order.
    """
    if likely:
        values = dict(rounded_hyperparameters(rule, hyper)).get(likely)
        if values is not None:
            judgement = _judge(rule, values, before, gradient, state_before, after, state_after, lr, step, dtype, likely)
            if judgement is not None and judgement.fits:
                return judgement
    best: UpdateJudgement | None = None
    slots: dict[str, UpdateResidual] = {}
    for variant, values in rounded_hyperparameters(rule, hyper):
        judgement = _judge(rule, values, before, gradient, state_before, after, state_after, lr, step, dtype, variant)
        if judgement is None or judgement.fits:
            return judgement
        for slot, item in judgement.state.items():
            if slot not in slots or item.worst < slots[slot].worst:
                slots[slot] = item
        best = judgement if best is None or judgement.parameter.worst < best.parameter.worst else best
    return None if best is None else replace(best, state=slots)


def rounded_hyperparameters(rule: str, hyper: Mapping[str, Scalar]) -> Iterator[tuple[str, Mapping[str, Scalar]]]:
    """Yield the hyper-parameters as declared, then as float32 kernels' attributes keep them, by the variant's name."""
    yield "", hyper
    full: dict[str, Scalar] = {**_DEFAULTS.get(rule, {}), **hyper}
    if isinstance(full.get("betas"), tuple):
        full["beta1"], full["beta2"] = Hyperparameters(full).pair("beta1", "beta2", "betas", (0.9, 0.999))
    every = {name: _as_float32(value) for name, value in full.items()}
    if every != full:
        yield "float32_hyperparameters", every
    decays = dict(full)
    decays.update({name: every[name] for name in ("weight_decay", "coupled_weight_decay", "l1_decay") if name in every})
    if decays not in (full, every):
        yield "float32_weight_decay", decays
    if rule in ("NAdam", "ASGD"):
        yield "float32_scalars", {**full, "float32_scalars": True}
    if "beta2" in _DEFAULTS.get(rule, {}) and every != full:
        exact = {"correction_beta1": full["beta1"], "correction_beta2": full["beta2"]}
        yield "float32_betas", {**every, **exact}


_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
_DEFAULTS: dict[str, dict[str, Scalar]] = {
    "Adam": {**_ADAM},
    "AdamW": {**_ADAM, "weight_decay": 0.01},
    "NAdam": {**_ADAM, "momentum_decay": 4e-3},
    "RAdam": {**_ADAM},
    "Adamax": {**_ADAM},
    "Adagrad": {"eps": 1e-10},
    "RMSprop": {"alpha": 0.99, "eps": 1e-8},
    "Adadelta": {"rho": 0.9, "eps": 1e-6},
}


def _as_float32(value: Scalar) -> Scalar:
    return float(np.float32(value)) if isinstance(value, float) else value


def correction_slack(rule: str, hyper: Mapping[str, Scalar], dtype: str) -> float:
    """Return the relative error of a whole update that powers of the betas kept in ``dtype`` can make.

    1 - beta^t with beta^t rounded to half an ULP below 1, eps / 4, is wrong by eps / 4 / (1 - beta) at worst,
    at t = 1; the second moment's counts by half, under the root. RAdam's rho loses more, measured 3e-12 in float64.
    """
    if "beta2" not in _DEFAULTS.get(rule, {}):
        return 0.0
    beta1, beta2 = Hyperparameters(hyper).pair("beta1", "beta2", "betas", (0.9, 0.999))
    eps = float(np.finfo(dtype).eps)
    return max(0.25 * eps / max(1.0 - beta1, eps) + 0.25 * eps / max(1.0 - beta2, eps), _NEGLIGIBLE_FACTOR)


def _judge(
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
    variant: str,
) -> UpdateJudgement | None:
    for name, array in (("gradient", gradient), ("parameter after the step", after)):
        if array.shape != before.shape:
            raise ValueError(f"{name}: expected the parameter's shape {before.shape}, got {array.shape}")
    size = int(before.size)
    flat = {"before": before.reshape(-1), "gradient": gradient.reshape(-1), "after": after.reshape(-1)}
    olds = {slot: np.asarray(value).reshape(-1) for slot, value in canonical_slots(state_before).items()}
    news = {slot: np.asarray(value).reshape(-1) for slot, value in canonical_slots(state_after).items()}

    shapes = {slot: np.shape(value) for slot, value in canonical_slots(state_after).items()}

    def part(values: Mapping[str, npt.NDArray[np.generic]], at: npt.NDArray[np.intp] | slice) -> dict[str, np.ndarray]:
        return {slot: value[at] if value.size == size else value for slot, value in values.items()}

    sample = _factor_sample(flat["before"], flat["after"])
    first = predict(rule, hyper, flat["before"][sample], flat["gradient"][sample], part(olds, sample), lr, step)
    if first is None:
        return None
    factor = _common_factor(
        first, flat["after"][sample], flat["before"][sample], correction_slack(rule, hyper, dtype), dtype
    )
    tally = _Tally(before.shape)
    slots: dict[str, _Tally] = {}
    with np.errstate(all="ignore"):
        for start in range(0, size, CHUNK_ELEMENTS):
            window = slice(start, start + CHUNK_ELEMENTS)
            here = flat["before"][window]
            predicted = predict(rule, hyper, here, flat["gradient"][window], part(olds, window), lr, step)
            assert predicted is not None
            _tally_parameter(tally, predicted, flat["after"][window], here, dtype, factor)
            actual = part(news, window)
            for slot in predicted.state.keys() & actual.keys():
                whole = shapes[slot]
                if slot not in slots:
                    slots[slot] = _Tally(whole)
                elif int(np.prod(whole)) != size:
                    continue
                _tally_slot(slots[slot], predicted, slot, actual[slot], dtype)
        return UpdateJudgement(
            tally.result(factor, _drift_bias(first, dtype)),
            {slot: slot_tally.result(0.0, 0.0) for slot, slot_tally in slots.items()},
            variant,
            tuple(sorted(first.state.keys() - news.keys() - _SCALAR_SLOTS)),
        )


def _factor_sample(before: np.ndarray, after: np.ndarray) -> npt.NDArray[np.intp]:
    """Return where to look for a common factor: evenly among the elements that moved; rows of no gradient tell
    nothing.
    """
    moved = np.flatnonzero(before != after)
    if not moved.size:
        moved = np.arange(before.size)
    chosen: npt.NDArray[np.intp] = moved[
        np.linspace(0, max(moved.size - 1, 0), min(moved.size, _FACTOR_SAMPLE)).astype(np.intp)
    ]
    return chosen


def _common_factor(predicted: Prediction, after: np.ndarray, before: np.ndarray, slack: float, dtype: str) -> float:
    """Return the one relative factor on the update that fits best, within ``slack``; 0 where none is needed."""
    if slack == 0.0:
        return 0.0
    start, end = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    update = predicted.parameter - start if predicted.correction is None else -predicted.correction
    finite = np.isfinite(predicted.parameter) & np.isfinite(end) & (update != 0.0)
    update, difference = update[finite], (end - predicted.parameter)[finite]
    ulps = _ulps(start[finite], end[finite], dtype)
    weight = np.divide(1.0, np.square(ulps + UPDATE_EPSILONS * np.finfo(dtype).eps * np.abs(update)))
    total = float(np.sum(weight * np.square(update)))
    best = float(np.sum(weight * update * difference)) / total if total > 0.0 else 0.0
    return float(np.clip(best, -slack, slack))


def _ulps(before: Float64Array, after: Float64Array, dtype: str) -> Float64Array:
    size = np.maximum(np.abs(before), np.abs(after)).astype(dtype)
    spacing: Float64Array = np.spacing(size).astype(np.float64)
    return spacing


def _drift_bias(predicted: Prediction, dtype: str) -> float:
    """Return the relative error of 1 - lr * wd rounded to ``dtype``, where the rule multiplies by it."""
    return 0.3 * float(np.finfo(dtype).eps) if predicted.parameter_roundings > 2 else 0.0


def _tally_parameter(
    tally: _Tally, predicted: Prediction, actual: np.ndarray, before: np.ndarray, dtype: str, factor: float
) -> None:
    start = np.asarray(before, dtype=np.float64).reshape(-1)
    end = np.asarray(actual, dtype=np.float64).reshape(-1)
    expected, scale = predicted.parameter.reshape(-1), predicted.scale.reshape(-1)
    update = expected - start
    direction = update if predicted.correction is None else -predicted.correction.reshape(-1)
    eps = float(np.finfo(dtype).eps)
    exactness = 2.0 if eps < 1e-12 else 0.0
    ulps = 0.5 * (predicted.parameter_roundings + 1 + exactness) * _ulps(start, end, dtype)
    slope = UPDATE_EPSILONS * eps * scale
    left = tally.add(expected + factor * direction, end, ulps + slope, update)
    tally.add_drift(left, start, 0.5 * ulps, slope)


def _tally_slot(tally: _Tally, predicted: Prediction, slot: str, actual: np.ndarray, dtype: str) -> None:
    values = np.asarray(actual, dtype=np.float64).reshape(-1)
    expected = np.broadcast_to(predicted.state[slot].reshape(-1), values.shape)
    scale = np.broadcast_to(predicted.state_scale[slot].reshape(-1), values.shape)
    kept = np.asarray(actual).dtype
    info = np.finfo(kept if kept.kind == "f" and kept.itemsize < np.dtype(dtype).itemsize else dtype)
    allowed = STATE_EPSILONS * float(info.eps) * scale + float(info.tiny)
    tally.add(expected, values, allowed, expected)
