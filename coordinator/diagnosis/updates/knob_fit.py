"""Solves for the value of one hyper-parameter, or two together, that fits paddle's updates best.

Residuals are taken over what rounding may do, and squared under a logarithm, so that another mistake on some of the
numbers does not draw the value away from what the others say.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.comparison.rule_inputs import Prediction, canonical_slots
from stepalign.coordinator.comparison.update_rules import predict
from stepalign.coordinator.diagnosis.updates.optimizer_candidates import Knob, torch_value
from stepalign.coordinator.diagnosis.updates.optimizer_case import Case, few, fits, rate_factor
from stepalign.coordinator.diagnosis.updates.update_trace import UpdateRecord

FIT_ELEMENTS = 384
FIT_RECORDS = 3
_EPSILONS = 8.0
_UNFIT = 1e30

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """A thinned record, or several one after another, with what rounding may do to parameter and slots under the case's own
    rule.
    """

    case: Case
    record: UpdateRecord
    allowed: Vector
    slots_allowed: Mapping[str, Vector]


@dataclass(frozen=True)
class Samples:
    """Thinned records to fit on. What the rule takes alike is ``joined``: each rule works element by element, so that records
    of one rule, hyper-parameters, rate and count of updates are predicted at once. ``order`` brings the residuals into the
    order of the records.
    """

    joined: tuple[Sample, ...]
    order: npt.NDArray[np.intp]


def sampled(cases: Sequence[Case]) -> Samples:
    """Return thinned records of a few cases to fit on."""
    single = [_sample(case, record) for case in few(cases) for record in _spread(case.records)]
    alike: dict[object, list[int]] = {}
    for number, sample in enumerate(single):
        alike.setdefault(_taken_alike(sample), []).append(number)
    places = _places(single)
    order = [place for members in alike.values() for parts in zip(*(places[number] for number in members)) for place in parts]
    joined = tuple(_join([single[number] for number in members]) for members in alike.values())
    return Samples(joined, np.concatenate([np.empty(0, np.intp), *order]))


def _taken_alike(sample: Sample) -> object:
    """Return what samples have in common whose records may be joined."""
    case, record = sample.case, sample.record
    numbers = [(slot, value.tobytes()) for slot, value in record.state_before.items() if value.size == 1]
    names = (tuple(record.state_before), tuple(sample.slots_allowed))
    arrays = (record.before, record.used, *record.state_before.values())
    dtypes = tuple(None if array is None else array.dtype.str for array in arrays)
    return case.rule, tuple(sorted(case.hyper.items())), record.lr, record.step, case.trace.dtype, names, tuple(numbers), dtypes


def _places(samples: Sequence[Sample]) -> list[list[npt.NDArray[np.intp]]]:
    """Return, for each sample, where the residuals of its parameter and of each slot stand among all."""
    start, found = 0, []
    for sample in samples:
        sizes = [part.size for part in (sample.allowed, *sample.slots_allowed.values())]
        ends = start + np.cumsum(sizes)
        found.append([np.arange(end - size, end) for end, size in zip(ends, sizes)])
        start = int(ends[-1])
    return found


def _join(samples: Sequence[Sample]) -> Sample:
    """Return samples that are taken alike as one; what is one number for a tensor stays one."""
    first, records = samples[0], [sample.record for sample in samples]

    def joined(part: Callable[[Sample], np.ndarray | None]) -> np.ndarray:
        return np.concatenate([array for sample in samples if (array := part(sample)) is not None])

    state = {
        slot: joined(lambda sample, slot=slot: sample.record.state_before[slot])  # type: ignore[misc]
        if all(record.state_before[slot].size == record.before.size for record in records)
        else value
        for slot, value in first.record.state_before.items()
    }
    record = replace(
        first.record,
        before=joined(lambda sample: sample.record.before),
        used_gradient=joined(lambda sample: sample.record.used),
        after=joined(lambda sample: sample.record.after),
        state_before=state,
        state_after={slot: joined(lambda sample, slot=slot: sample.record.state_after[slot]) for slot in first.slots_allowed},  # type: ignore[misc]
    )
    slots = {slot: joined(lambda sample, slot=slot: sample.slots_allowed[slot]) for slot in first.slots_allowed}  # type: ignore[misc]
    return Sample(first.case, record, joined(lambda sample: sample.allowed), slots)


def _spread(records: Sequence[UpdateRecord]) -> list[UpdateRecord]:
    return [records[i] for i in np.unique(np.linspace(0, len(records) - 1, min(len(records), FIT_RECORDS)).astype(int))]


def _sample(case: Case, record: UpdateRecord) -> Sample:
    size = int(record.before.size)
    at = np.linspace(0, size - 1, min(size, FIT_ELEMENTS)).astype(np.intp)

    def thin(array: np.ndarray) -> np.ndarray:
        flat = np.asarray(array).reshape(-1)
        return flat[at] if flat.size == size else flat

    used = record.used
    assert used is not None
    thinned = replace(
        record,
        before=thin(record.before),
        used_gradient=thin(used),
        after=thin(record.after),
        state_before={slot: thin(value) for slot, value in canonical_slots(record.state_before).items()},
        state_after={slot: thin(value) for slot, value in canonical_slots(record.state_after).items()},
    )
    eps = float(np.finfo(case.trace.dtype).eps)
    predicted = _predict(case, thinned)
    size_of = np.maximum(np.abs(_wide(thinned.before)), np.abs(_wide(thinned.after)))
    allowed = eps * size_of + _EPSILONS * eps * _finite(predicted.scale) + float(np.finfo(case.trace.dtype).tiny)
    slots = {
        slot: _EPSILONS * eps * (np.abs(_wide(value)) + _finite(predicted.state_scale.get(slot, np.zeros(()))))
        + float(np.finfo(case.trace.dtype).tiny)
        for slot, value in thinned.state_after.items()
        if slot in predicted.state and slot != "step"
    }
    return Sample(case, thinned, allowed, slots)


def _predict(case: Case, record: UpdateRecord) -> Prediction:
    plain = {key: value for key, value in case.hyper.items() if not key.startswith("_")}
    used = record.used
    assert used is not None
    lr = record.lr * rate_factor(case.hyper)
    predicted = predict(case.rule, plain, record.before, used, record.state_before, lr, record.step)
    assert predicted is not None
    return predicted


def _wide(array: np.ndarray) -> Vector:
    return np.asarray(array, dtype=np.float64)


def _finite(array: Vector) -> Vector:
    return np.where(np.isfinite(array), array, 0.0)


def _residuals(samples: Samples, change: Callable[[Case], Case]) -> Vector:
    """Return all residuals over their allowances, record by record, parameters and slots one after another. ``change`` looks
    at a case's rule and hyper-parameters alone.
    """
    parts: list[Vector] = []
    with np.errstate(all="ignore"):
        for sample in samples.joined:
            predicted = _predict(change(sample.case), sample.record)
            parts.append((_wide(sample.record.after) - predicted.parameter) / sample.allowed)
            for slot, allowed in sample.slots_allowed.items():
                actual = _wide(sample.record.state_after[slot])
                expected = predicted.state.get(slot)
                missing = np.full(actual.shape, _UNFIT)
                parts.append(missing if expected is None else ((actual - expected) / allowed).reshape(-1))
    joined = np.concatenate([part.reshape(-1) for part in parts])
    found = np.empty_like(joined)
    found[samples.order] = joined
    return np.where(np.isfinite(found), found, _UNFIT)


def _score(residuals: Vector) -> float:
    return float(np.mean(np.log1p(np.square(np.minimum(np.abs(residuals), 1e15)))))


def objective(samples: Samples, changed: Sequence[Case] | None) -> float:
    """Return the robust mean square of the samples' residuals, under ``changed`` cases where given."""
    by_name = {case.name: case for case in changed or ()}
    return _score(_residuals(samples, lambda case: by_name.get(case.name, case)))


def solve(knob: Knob, cases: Sequence[Case]) -> float | None:
    """Return the value that fits the cases best, a round one where that fits as many; None where no value helps.

    A case that depends on the value little fits at rounder ones than the port was given: those that it matters to decide.
    """
    samples = sampled(cases)

    def residuals(value: float) -> Vector:
        return _residuals(samples, lambda case: replace(case, hyper=knob.apply(case.hyper, value)))

    before = objective(samples, None)
    scores = [(_score(residuals(value)), value) for value in knob.grid]
    best, value = min(scores, key=lambda item: item[0])
    for _, start in sorted(scores)[:2]:
        refined = _refine(knob, residuals, start)
        score = _score(residuals(refined))
        if score < best:
            best, value = score, refined
    if best >= 0.98 * before:
        return None
    tested = few(cases)
    rounded = _rounded(knob, value)
    fitting: dict[float, int] = {}
    for tried in rounded:
        fitting[tried] = sum(fits(replace(case, hyper=knob.apply(case.hyper, tried))) for case in tested)
        if fitting[tried] == len(tested):
            return tried
    if any(fitting.values()):
        return max(rounded, key=fitting.__getitem__)
    return next((tried for tried in rounded if _score(residuals(tried)) <= max(1.001 * best, best + 0.02)), value)


def solve_pair(first: Knob, second: Knob, cases: Sequence[Case]) -> Iterator[tuple[float, float]]:
    """Yield values of two knobs that fit the cases together: rounded ones first, then what Gauss-Newton found."""
    samples = sampled(cases)

    def residuals(values: npt.NDArray[np.float64]) -> Vector:
        def change(case: Case) -> Case:
            return replace(case, hyper=second.apply(first.apply(case.hyper, float(values[0])), float(values[1])))

        return np.clip(_residuals(samples, change), -1e15, 1e15)

    start = [torch_value(cases[0].rule, cases[0].hyper, knob.name) for knob in (first, second)]
    values = np.array(start)
    current = residuals(values)
    before = float(current @ current)
    for _ in range(8):
        probes = np.diag(
            [1e-4 * (abs(1.0 - v) if k.complement else abs(v)) or 1e-6 for k, v in zip((first, second), values)]
        )
        slopes = np.stack([(residuals(values + probe) - current) / probe.max() for probe in probes], axis=1)
        scale = np.linalg.norm(slopes, axis=0)
        if not np.all(scale > 0.0):
            return
        move = np.linalg.lstsq(slopes / scale, -current, rcond=1e-10)[0] / scale
        tried = np.clip(values + move, [first.least, second.least], [first.greatest, second.greatest])
        changed = residuals(tried)
        if not float(changed @ changed) < float(current @ current):
            break
        values, current = tried, changed
    if float(current @ current) > 1e-4 * before:
        return
    found = (float(values[0]), float(values[1]))
    yield from itertools.product((*_rounded(first, found[0])[1:], found[0]), (*_rounded(second, found[1]), found[1]))


def _refine(knob: Knob, residuals: Callable[[float], Vector], start: float) -> float:
    """Polish a value by Gauss-Newton on the robust sum of squares."""
    least_step = min((abs(value) for value in knob.grid if value), default=1e-6)
    value, current = start, residuals(start)
    for _ in range(12):
        size = abs(1.0 - value) if knob.complement else abs(value)
        probe = 1e-4 * size or 1e-2 * least_step
        slope = (residuals(value + probe) - current) / probe
        weight = 1.0 / (1.0 + np.square(np.minimum(np.abs(current), 1e15)))
        slope = np.where(np.abs(current) < _UNFIT, slope, 0.0)
        curvature = float(np.sum(weight * slope * slope))
        if not curvature or not np.isfinite(curvature):
            break
        move = -float(np.sum(weight * slope * current)) / curvature
        score = _score(current)
        for shrink in (1.0, 0.5, 0.1, 0.01):
            tried = float(np.clip(value + shrink * move, knob.least, knob.greatest))
            changed = residuals(tried)
            if _score(changed) < score:
                break
        else:
            break
        done = abs(tried - value) <= 1e-12 * max(size, least_step)
        value, current = tried, changed
        if done:
            break
    return value


def _rounded(knob: Knob, value: float) -> list[float]:
    """Return rounder values near a fitted one: nothing, a known guess, then one to four digits."""
    found = [0.0, *(guess for guess in knob.grid if abs(guess - value) <= 0.02 * abs(value))]
    for digits in (1, 2, 3, 4):
        if knob.complement:
            found.append(1.0 - float(f"{1.0 - value:.{digits}g}"))
        else:
            found.append(float(f"{value:.{digits}g}"))
    return list(dict.fromkeys(found))


def is_unchanged(knob: Knob, value: float, cases: Sequence[Case]) -> bool:
    """Say whether a fitted value is torch's own for every case, but for what float32 makes of it."""
    for case in cases:
        ours = case.hyper.get("eps_inside_sqrt") if knob.name == "eps" and "eps_inside_sqrt" in case.hyper else None
        known = float(ours) if isinstance(ours, float) else torch_value(case.rule, case.hyper, knob.name)
        size = abs(1.0 - known) if knob.complement else abs(known)
        if abs(value - known) > 1e-4 * size:
            return False
    return True
