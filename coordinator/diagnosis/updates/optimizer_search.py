"""Searches the changes to torch's rule that make paddle's updates fit, up to three at once.

A change counts only where every element of every step of a parameter, and every slot of its state, is then within what
rounding may do; how well it fits elsewhere does not matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from stepalign.coordinator.diagnosis.cause import Category
from stepalign.coordinator.diagnosis.updates.knob_fit import is_unchanged, objective, sampled, solve, solve_pair
from stepalign.coordinator.diagnosis.updates.optimizer_candidates import Knob, Switch, knobs, switches
from stepalign.coordinator.diagnosis.updates.optimizer_case import FEW_CASES, Case, few, fits, worst_of

_BEAM = (5, 3)


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


def explain(cases: Sequence[Case], decays_in_use: Sequence[float], depth: int = 3) -> list[list[Explanation]]:
    """Explain failing cases, group by group: each inner list holds alternatives for the same parameters, best first.

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
    samples = sampled(open_cases)
    before = objective(samples, None)
    gains = []
    for change in changes:
        gain = before - objective(samples, [change.transform(case) for case in open_cases])
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
    """Yield pairs of numbers that only together explain the cases, as decay and momentum in one velocity.

    Of a pair the values that explain most cases; a number that is torch's own then is no change.
    """
    for pair in itertools.combinations(knobs(cases[0].rule, cases[0].hyper, decays_in_use), 2):
        best: Explanation | None = None
        for values in solve_pair(*pair, cases):
            turned = [(knob, value) for knob, value in zip(pair, values) if not is_unchanged(knob, value, cases)]
            changes = tuple(_turned(knob, value) for knob, value in turned)
            changed = list(cases)
            for change in changes[:-1]:
                changed = [change.transform(case) for case in changed]
            found = _covered(changes[-1], changed) if changes else None
            if found is not None and (best is None or len(found.covered) > len(best.covered)):
                best = replace(found, changes=changes)
                if len(found.covered) == len(cases):
                    break
        if best is not None:
            yield best


def _covered(change: Change, cases: Sequence[Case]) -> Explanation | None:
    names, worst = [], 0.0
    if len(cases) > 2 * FEW_CASES and not any(fits(change.transform(case)) for case in few(cases)):
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
        value = solve(knob, cases)
        if value is not None and not is_unchanged(knob, value, cases):
            yield _turned(knob, value)
    for switch in switches(rule, hyper):
        yield _flipped(switch)
        if switch.name == "coupling":
            changed = [_flipped(switch).transform(case) for case in cases]
            decay = next(knob for knob in available if knob.name == "weight_decay")
            value = solve(decay, changed)
            if value:
                yield _both(_flipped(switch), _turned(decay, value))


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
