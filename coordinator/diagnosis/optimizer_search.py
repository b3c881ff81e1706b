"""Searches the changes to torch's rule that make paddle's updates fit, up to three at once.

A change counts only where every element of every step of a parameter, and every slot of its state, is then within what
rounding may do; how well it fits elsewhere does not matter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.comparison.rule_inputs import Prediction, canonical_slots
from stepalign.coordinator.comparison.update_residual import UpdateJudgement, judge_update
from stepalign.coordinator.comparison.update_rules import predict
from stepalign.coordinator.diagnosis.cause import Category
from stepalign.coordinator.diagnosis.optimizer_candidates import Hyper, Knob, Switch, knobs, switches, torch_value
from stepalign.coordinator.diagnosis.update_trace import ParameterTrace, UpdateRecord

FIT_ELEMENTS = 384
FIT_CASES = 6
FIT_RECORDS = 3
_BEAM = (5, 3)
_EPSILONS = 8.0
_UNFIT = 1e30

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One parameter's records on paddle, with the rule and hyper-parameters tried on them so far."""

    trace: ParameterTrace
    rule: str
    hyper: Hyper
    records: tuple[UpdateRecord, ...]

    @property
    def name(self) -> str:
        """Return the parameter's torch name."""
        return self.trace.torch_name


@dataclass(frozen=True)
class Change:
    """One way in which paddle's optimizer differs; ``value`` is what a knob was fitted to."""

    name: str
    category: Category
    code: str
    cost: float
    transform: Callable[[Case], Case]
    decays: bool = False
    value: float | None = None
    evidence: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Explanation:
    """Changes that together make paddle's updates of the parameters ``covered`` fit; ``worst`` is what is left over."""

    changes: tuple[Change, ...]
    covered: tuple[str, ...]
    worst: float

    @property
    def cost(self) -> float:
        """Return how far-fetched the changes are, together."""
        return sum(change.cost for change in self.changes)


def judge_record(rule: str, hyper: Hyper, record: UpdateRecord, dtype: str) -> UpdateJudgement | None:
    """Hold one record against a rule; None where the rule is unknown or there is no gradient."""
    gradient = record.used
    if gradient is None:
        return None
    plain = {key: value for key, value in hyper.items() if not key.startswith("_")}
    return judge_update(
        rule,
        plain,
        record.before,
        gradient,
        record.state_before,
        record.after,
        record.state_after,
        record.lr * _rate(hyper),
        record.step,
        dtype,
    )


def worst_of(case: Case, enough: float = math.inf) -> float:
    """Return the greatest quotient of residual and allowance over a case's records; infinite where a slot is missing.

    Stops at the first record above ``enough``.
    """
    worst = 0.0
    for record in case.records:
        judgement = judge_record(case.rule, case.hyper, record, case.trace.dtype)
        if judgement is None or judgement.missing_slots:
            return float("inf")
        worst = max(worst, judgement.worst)
        if worst > enough:
            break
    return worst


def fits(case: Case) -> bool:
    """Say whether all of a case's records fit its rule."""
    return worst_of(case, 1.0) <= 1.0


def explain(cases: Sequence[Case], decays_in_use: Sequence[float], depth: int = 3) -> list[list[Explanation]]:
    """Explain failing cases, group by group: each inner list holds alternatives that cover the same parameters, best first.

    Parameters that nothing explains are in no group.
    """
    groups: list[list[Explanation]] = []
    remaining = list(cases)
    while remaining and len(groups) < 4:
        found = list(_search(remaining, decays_in_use, depth))
        if not found:
            break
        most = max(len(explanation.covered) for explanation in found)
        names = next(e.covered for e in sorted(found, key=_order) if len(e.covered) == most)
        groups.append(sorted((e for e in found if set(e.covered) == set(names)), key=_order))
        remaining = [case for case in remaining if case.name not in names]
    return groups


def _order(explanation: Explanation) -> tuple[int, float, float]:
    return -len(explanation.covered), explanation.cost, explanation.worst


def _search(cases: Sequence[Case], decays_in_use: Sequence[float], depth: int) -> Iterator[Explanation]:
    """Yield explanations of any subset of the cases by one change, else by more."""
    changes = list(_changes(cases, decays_in_use))
    single = [explanation for change in changes if (explanation := _covered(change, cases))]
    yield from single
    covered = {name for explanation in single for name in explanation.covered}
    open_cases = [case for case in cases if case.name not in covered]
    if not open_cases or depth <= 1:
        return
    samples = _sampled(open_cases)
    before = _objective(samples, None)
    gains = []
    for change in changes:
        gain = before - _objective(samples, [change.transform(case) for case in open_cases])
        if gain > (0.02 + 0.01 * change.cost) * before:
            gains.append((gain - 0.01 * change.cost * before, change))
    gains.sort(key=lambda gain: -gain[0])
    explained = False
    for _, change in gains[: _BEAM[0] if depth == 3 else _BEAM[1]]:
        changed = [change.transform(case) for case in open_cases]
        for explanation in _search(changed, decays_in_use, 2 if depth == 3 and not explained else 1):
            if all(change.name != other.name for other in explanation.changes):
                explained = explained or len(explanation.covered) == len(open_cases)
                yield replace(explanation, changes=(change, *explanation.changes))
    if not explained:
        yield from _joint(open_cases, decays_in_use)


def _joint(cases: Sequence[Case], decays_in_use: Sequence[float]) -> Iterator[Explanation]:
    """Yield pairs of numbers that only together explain the cases, as decay and momentum in one velocity."""
    for first, second in itertools.combinations(knobs(cases[0].rule, cases[0].hyper, decays_in_use), 2):
        for values in _solve_pair(first, second, cases):
            changes = (_turned(first, values[0]), _turned(second, values[1]))
            found = _covered(changes[1], [changes[0].transform(case) for case in cases])
            if found is not None:
                yield replace(found, changes=changes)
                break


def _covered(change: Change, cases: Sequence[Case]) -> Explanation | None:
    names, worst = [], 0.0
    if len(cases) > 2 * FIT_CASES and not any(fits(change.transform(case)) for case in _few(cases)):
        return None
    for case in cases:
        left = worst_of(change.transform(case), 1.0)
        if left <= 1.0:
            names.append(case.name)
            worst = max(worst, left)
    return Explanation((change,), tuple(names), worst) if names else None


def _changes(cases: Sequence[Case], decays_in_use: Sequence[float]) -> Iterator[Change]:
    """Yield every switch, and every knob at the value that fits the cases best."""
    rule, hyper = cases[0].rule, cases[0].hyper
    available = knobs(rule, hyper, decays_in_use)
    for knob in available:
        value = _solve(knob, cases)
        if value is not None and not _is_unchanged(knob, value, cases):
            yield _turned(knob, value)
    for switch in switches(rule, hyper):
        yield _flipped(switch)
        if switch.name == "coupling":
            changed = [_flipped(switch).transform(case) for case in cases]
            decay = next(knob for knob in available if knob.name == "weight_decay")
            value = _solve(decay, changed)
            if value:
                yield _both(_flipped(switch), _turned(decay, value))


def _is_unchanged(knob: Knob, value: float, cases: Sequence[Case]) -> bool:
    """Say whether a fitted value is torch's own for every case, but for what float32 makes of it."""
    for case in cases:
        ours = case.hyper.get("eps_inside_sqrt") if knob.name == "eps" and "eps_inside_sqrt" in case.hyper else None
        known = float(ours) if isinstance(ours, float) else torch_value(case.rule, case.hyper, knob.name)
        size = abs(1.0 - known) if knob.complement else abs(known)
        if abs(value - known) > 1e-4 * size:
            return False
    return True


def _turned(knob: Knob, value: float) -> Change:
    def transform(case: Case) -> Case:
        return replace(case, hyper=knob.apply(case.hyper, value))

    nothing = knob.decays and value == 0.0
    cost = 1.0 if nothing else knob.cost
    return Change(knob.name, knob.category, knob.code, cost, transform, knob.decays, value)


def _flipped(switch: Switch) -> Change:
    def transform(case: Case) -> Case:
        return replace(case, rule=switch.rule or case.rule, hyper=switch.apply(case.hyper))

    return Change(
        switch.name,
        switch.category,
        switch.code,
        switch.cost,
        transform,
        switch.decays,
        None,
        switch.evidence,
        switch.fix,
    )


def _both(first: Change, second: Change) -> Change:
    evidence = f"{first.evidence}, with weight decay {second.value:.6g}"
    return replace(
        first,
        name=f"{first.name} and {second.name}",
        cost=first.cost + second.cost,
        transform=lambda case: second.transform(first.transform(case)),
        value=second.value,
        evidence=evidence,
    )


def _rate(hyper: Hyper) -> float:
    factor = hyper.get("_rate", 1.0)
    return float(factor) if isinstance(factor, (int, float)) else 1.0


@dataclass(frozen=True)
class _Sample:
    """A thinned record with what rounding may do to its parameter and slots under the case's own rule."""

    case: Case
    record: UpdateRecord
    allowed: Vector
    slots_allowed: Mapping[str, Vector]


def _few(cases: Sequence[Case]) -> list[Case]:
    return [cases[i] for i in np.linspace(0, len(cases) - 1, min(len(cases), FIT_CASES)).astype(int)]


def _sampled(cases: Sequence[Case]) -> list[_Sample]:
    return [_sample(case, record) for case in _few(cases) for record in _spread(case.records)]


def _spread(records: Sequence[UpdateRecord]) -> list[UpdateRecord]:
    return [records[i] for i in np.unique(np.linspace(0, len(records) - 1, min(len(records), FIT_RECORDS)).astype(int))]


def _sample(case: Case, record: UpdateRecord) -> _Sample:
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
    return _Sample(case, thinned, allowed, slots)


def _predict(case: Case, record: UpdateRecord) -> Prediction:
    plain = {key: value for key, value in case.hyper.items() if not key.startswith("_")}
    used = record.used
    assert used is not None
    lr = record.lr * _rate(case.hyper)
    predicted = predict(case.rule, plain, record.before, used, record.state_before, lr, record.step)
    assert predicted is not None
    return predicted


def _wide(array: np.ndarray) -> Vector:
    return np.asarray(array, dtype=np.float64)


def _finite(array: Vector) -> Vector:
    return np.where(np.isfinite(array), array, 0.0)


def _residuals(samples: Sequence[_Sample], change: Callable[[Case], Case]) -> Vector:
    """Return all residuals over their allowances, parameters and slots one after another."""
    parts: list[Vector] = []
    with np.errstate(all="ignore"):
        for sample in samples:
            predicted = _predict(change(sample.case), sample.record)
            parts.append((_wide(sample.record.after) - predicted.parameter) / sample.allowed)
            for slot, allowed in sample.slots_allowed.items():
                actual = _wide(sample.record.state_after[slot])
                expected = predicted.state.get(slot)
                missing = np.full(actual.shape, _UNFIT)
                parts.append(missing if expected is None else ((actual - expected) / allowed).reshape(-1))
    joined = np.concatenate([part.reshape(-1) for part in parts])
    return np.where(np.isfinite(joined), joined, _UNFIT)


def _score(residuals: Vector) -> float:
    return float(np.mean(np.log1p(np.square(np.minimum(np.abs(residuals), 1e15)))))


def _objective(samples: Sequence[_Sample], changed: Sequence[Case] | None) -> float:
    by_name = {case.name: case for case in changed or ()}
    return _score(_residuals(samples, lambda case: by_name.get(case.name, case)))


def _solve(knob: Knob, cases: Sequence[Case]) -> float | None:
    """Return the value that fits the cases best, a round one where that fits too; None where no value helps."""
    samples = _sampled(cases)

    def residuals(value: float) -> Vector:
        return _residuals(samples, lambda case: replace(case, hyper=knob.apply(case.hyper, value)))

    before = _objective(samples, None)
    scores = [(_score(residuals(value)), value) for value in knob.grid]
    best, value = min(scores, key=lambda item: item[0])
    for _, start in sorted(scores)[:2]:
        refined = _refine(knob, residuals, start)
        score = _score(residuals(refined))
        if score < best:
            best, value = score, refined
    if best >= 0.98 * before:
        return None
    few = _few(cases)
    rounded = _rounded(knob, value)
    for tried in rounded:
        if any(fits(_turned(knob, tried).transform(case)) for case in few):
            return tried
    return next((tried for tried in rounded if _score(residuals(tried)) <= max(1.001 * best, best + 0.02)), value)


def _solve_pair(first: Knob, second: Knob, cases: Sequence[Case]) -> Iterator[tuple[float, float]]:
    """Yield values of two knobs that fit the cases together: rounded ones first, then what Gauss-Newton found."""
    samples = _sampled(cases)

    def residuals(values: npt.NDArray[np.float64]) -> Vector:
        def change(case: Case) -> Case:
            return replace(case, hyper=second.apply(first.apply(case.hyper, float(values[0])), float(values[1])))

        return np.clip(_residuals(samples, change), -1e15, 1e15)

    start = [torch_value(cases[0].rule, cases[0].hyper, knob.name) for knob in (first, second)]
    values = np.array(start)
    current = residuals(values)
    before = float(current @ current)
    for _ in range(8):
        probes = np.diag([1e-4 * (abs(1.0 - v) if k.complement else abs(v)) or 1e-6 for k, v in zip((first, second), values)])
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
