"""Explains tensors that a script moves itself, otherwise on both sides: averages of weights, copies, running statistics.

Torch's own numbers have to follow a rule at every step that is looked at: after = (1 - k) before + k source, or, for a buffer
whose input is unknown, the same with an input that both sides share. Then paddle's numbers are held against that rule with
another k, with the source as it is at another time, and against not moving at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stepalign.coordinator.comparison.moving_average import (
    Motion,
    Share,
    fit_share,
    in_order_of_likeness,
    rule_text,
    written,
)
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.updates.update_trace import sampled_indices
from stepalign.coordinator.diagnosis.wording import count, names

Arrays = Mapping[str, np.ndarray]

_KNOWN_WELL = 10.0
"""A share has to be so many times what rounding may put it off by, or a rule that fits says nothing."""

_SAME_INPUT = 1e-3
"""What may be left over, of a buffer's move, where both sides average the same input: buffers agree to 1e-5 of themselves."""


@dataclass(frozen=True)
class MovedStep:
    """Both sides' parameters and buffers around one step, torch first: canonical names, torch's layout."""

    step: int
    before: tuple[Arrays, Arrays]
    after: tuple[Arrays, Arrays]

    def motion(self, side: int, name: str, source: str = "", updated: bool = True) -> Motion | None:
        """Return a sample of one side's tensor and its source, after the step's update or before it; None without one."""
        chosen = (self.after if updated else self.before)[side].get(source or name)
        before, after = self.before[side].get(name), self.after[side].get(name)
        if before is None or after is None or chosen is None:
            return None
        return Motion(*(_sample(array) for array in (before, after, chosen)))


@dataclass(frozen=True)
class _Rule:
    source: str
    updated: bool


def explain_averages(
    name: str, others: Sequence[str], shapes: Mapping[str, tuple[int, ...]], steps: Sequence[MovedStep]
) -> list[Cause]:
    """Return why ``name``, which no optimizer holds, moves otherwise in paddle; none where torch's follows no other tensor.

    ``others`` are more such tensors, which the same mistake may concern. ``shapes``: of all tensors that may be a source.
    ``steps`` begin with the first that failed.
    """
    rule = _torch_rule(name, shapes, steps)
    if rule is None:
        return []
    group = {name: rule}
    for other in others:
        its = _torch_rule(other, shapes, steps)
        if its is not None and its.updated == rule.updated:
            group[other] = its
    ours = _share(0, group, steps)
    if ours is None:
        group = {name: rule}
        ours = _share(0, group, steps)
        if ours is None:
            return []
    still = [item for item in group if not any(_moved(step, 1, item) for step in steps)]
    if name in still and any(_way_open(step, name, rule.source) for step in steps):
        return [_missing(still, rule, ours, len(steps))]
    for updated in (rule.updated, not rule.updated):
        same = _paddle_group(name, group, updated, steps)
        if not same:
            continue
        if updated == rule.updated:
            apart = next((found for step in steps if (found := _apart(group, same, [step])) is not None), None)
            return [_decay(list(same), rule, *apart)] if apart is not None else []
        return [_order(list(same), rule, _apart(group, same, steps[-1:]))]
    return []


def _apart(ours: Mapping[str, _Rule], theirs: Mapping[str, _Rule], steps: Sequence[MovedStep]) -> tuple[Share, Share] | None:
    """Return both sides' k of the same steps where they differ by more than rounding."""
    shares = _share(0, ours, steps), _share(1, theirs, steps)
    if shares[0] is None or shares[1] is None:
        return None
    apart = abs(shares[1].value - shares[0].value) > shares[0].uncertain + shares[1].uncertain
    return (shares[0], shares[1]) if apart else None


def explain_buffer(name: str, others: Sequence[str], steps: Sequence[MovedStep]) -> list[Cause]:
    """Return why a buffer that follows no other tensor moves otherwise in paddle, as far as the numbers tell."""
    if _stays(name, steps):
        return [_not_updated([name, *(other for other in others if _stays(other, steps))], len(steps))]
    first = steps[0]
    ours, theirs = first.motion(0, name), first.motion(1, name)
    if ours is None or theirs is None or ours.after.dtype.kind != "f":
        return []
    factor, left = _factor(_move(ours), _move(theirs))
    if left > _SAME_INPUT or factor <= 0.0 or abs(factor - 1.0) < 10 * _SAME_INPUT:
        return []
    share = _input_share(name, factor, steps)
    if share is None or abs(share) < _SAME_INPUT:
        sure = 0.6 if share is None else 0.85
        return [
            Cause(
                Category.BUFFER, "scaled_update", sure,
                f"{name} moves by {factor:.4g} times what torch's moves by",
                f"compare what updates {name} in both scripts: the decay, and whether it takes a sum or a mean",
            )
        ]  # fmt: skip
    if not 0.0 < share <= 1.0 or not 0.0 < share / factor <= 1.0:
        return []
    kept = [f"{round(1.0 - each, 5):g}" for each in (share / factor, share)]
    return [
        Cause(
            Category.BUFFER, "moving_average_decay", 0.93,
            f"{name} averages the same input on both sides: torch keeps {kept[0]} of the average at each step, "
            f"paddle {kept[1]}",
            f"keep {kept[0]} of {name} at each step in paddle",
        )
    ]  # fmt: skip


def moved_by_script(where: str) -> Cause:
    """Return the least that can be said of a parameter that no optimizer holds."""
    return Cause(
        Category.BUFFER,
        "moved_by_script",
        0.3,
        f"moved by the script's own code: no optimizer holds it; {where}",
        "compare where both scripts change this tensor themselves",
    )


def _sample(array: np.ndarray) -> np.ndarray:
    flat = np.asarray(array).reshape(-1)
    return flat[sampled_indices(flat.size)]


def _move(motion: Motion) -> np.ndarray:
    moved: np.ndarray = np.asarray(motion.after, np.float64) - np.asarray(motion.before, np.float64)
    return moved


def _moved(step: MovedStep, side: int, name: str) -> bool:
    motion = step.motion(side, name)
    return motion is not None and not np.array_equal(motion.before, motion.after, equal_nan=True)


def _way_open(step: MovedStep, name: str, source: str) -> bool:
    """Say whether paddle's tensor would have moved in this step, whichever of its source's values it took."""
    ways = [step.motion(1, name, source, updated) for updated in (True, False)]
    return all(way is not None and not np.array_equal(way.before, way.source) for way in ways)


def _torch_rule(name: str, shapes: Mapping[str, tuple[int, ...]], steps: Sequence[MovedStep]) -> _Rule | None:
    """Return what torch's tensor follows: to rounding at every step, and well beyond rounding at one."""
    if not any(_moved(step, 0, name) for step in steps):
        return None
    others = [other for other, shape in shapes.items() if other != name and shape == shapes.get(name)]
    for source in in_order_of_likeness(name, others):
        for updated in (True, False):
            if _share(0, {name: _Rule(source, updated)}, steps) is not None:
                return _Rule(source, updated)
    return None


def _share(side: int, group: Mapping[str, _Rule], steps: Sequence[MovedStep]) -> Share | None:
    """Return the k of the first step that tells it, if one side's tensors follow their rules to rounding at all steps."""
    best: Share | None = None
    for step in steps:
        motions = [step.motion(side, name, rule.source, rule.updated) for name, rule in group.items()]
        there = [motion for motion in motions if motion is not None]
        share = fit_share(there) if len(there) == len(motions) else None
        if share is None:
            return None
        if best is None and share.value > _KNOWN_WELL * share.uncertain:
            best = share
    return best


def _paddle_group(
    name: str, group: Mapping[str, _Rule], updated: bool, steps: Sequence[MovedStep]
) -> dict[str, _Rule]:
    """Return those of the group that follow their source in paddle at this time; none if ``name`` does not."""
    rules = {item: _Rule(rule.source, updated) for item, rule in group.items()}
    found = {item: rule for item, rule in rules.items() if _share(1, {item: rule}, steps) is not None}
    if name not in found:
        return {}
    return found if _share(1, found, steps) is not None else {name: found[name]}


def _stays(name: str, steps: Sequence[MovedStep]) -> bool:
    return any(_moved(step, 0, name) for step in steps) and not any(_moved(step, 1, name) for step in steps)


def _factor(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Return c of theirs = c * ours, and what is left over of theirs."""
    size, own = float(np.dot(ours, ours)), float(np.dot(theirs, theirs))
    if not size or not own or not np.isfinite(size + own):
        return 0.0, float("inf")
    factor = float(np.dot(ours, theirs)) / size
    rest = theirs - factor * ours
    return factor, float(np.sqrt(np.dot(rest, rest) / own))


def _input_share(name: str, factor: float, steps: Sequence[MovedStep]) -> float | None:
    """Return paddle's k from the second step: with one input x, moved = k (x - before) on either side, so
    moved_p - factor * moved_t = k_p (before_t - before_p). None where nothing tells.
    """
    if len(steps) < 2 or steps[1].step != steps[0].step + 1:
        return None
    ours, theirs = steps[1].motion(0, name), steps[1].motion(1, name)
    if ours is None or theirs is None:
        return None
    apart = np.asarray(ours.before, np.float64) - np.asarray(theirs.before, np.float64)
    rest = _move(theirs) - factor * _move(ours)
    size, own = float(np.dot(apart, apart)), float(np.dot(_move(theirs), _move(theirs)))
    if not size or not own or not np.isfinite(size + own):
        return None
    share = float(np.dot(rest, apart)) / size
    left = rest - share * apart
    return share if np.sqrt(np.dot(left, left) / own) <= _SAME_INPUT else None


def _missing(still: list[str], rule: _Rule, ours: Share, steps: int) -> Cause:
    kept = written(1.0 - ours.value, ours.uncertain)
    fix = (
        "copy it in paddle too, in place: average.set_value(weight)"
        if kept == "0"
        else f"move it in paddle too, in place: average.set_value({kept} * average + (1 - {kept}) * weight)"
    )
    return Cause(
        Category.BUFFER, "moving_average_missing", 0.95,
        f"{names(still)}: torch makes it {rule_text(ours, rule.source)} at each step, paddle leaves it as it is in "
        f"{count(steps, 'step')}",
        fix,
    )  # fmt: skip


def _not_updated(still: list[str], steps: int) -> Cause:
    return Cause(
        Category.BUFFER, "not_updated", 0.9,
        f"{names(still)}: torch changes it at each step, paddle leaves it as it is in {count(steps, 'step')}",
        "update it in paddle too, in place (set_value), and have its layer in training mode where torch's is",
    )  # fmt: skip


def _decay(members: list[str], rule: _Rule, ours: Share, theirs: Share) -> Cause:
    kept = [written(1.0 - share.value, share.uncertain) for share in (ours, theirs)]
    if kept[0] == "0":
        return Cause(
            Category.BUFFER, "moving_average_decay", 0.95,
            f"{names(members)}: torch makes it a copy of {rule.source} at each step, paddle keeps {kept[1]} of it and averages",
            "copy it in paddle too, in place: average.set_value(weight)",
        )  # fmt: skip
    return Cause(
        Category.BUFFER, "moving_average_decay", 0.95,
        f"{names(members)}: torch keeps {kept[0]} of the average at each step, paddle {kept[1]}; the rest is taken of "
        f"{rule.source}",
        f"keep {kept[0]} of the average at each step in paddle",
    )  # fmt: skip


def _order(members: list[str], rule: _Rule, apart: tuple[Share, Share] | None) -> Cause:
    kept = [written(1.0 - share.value, share.uncertain) for share in apart or ()]
    decay = f"; torch keeps {kept[0]} of the average, paddle {kept[1]}" if kept else ""
    if rule.updated:
        evidence = (
            f"{names(members)}: torch averages {rule.source} as the step's update leaves it, paddle as it was before{decay}"
        )
        return Cause(
            Category.BUFFER, "moving_average_order", 0.95, evidence, "average the weights after optimizer.step() in paddle"
        )
    evidence = f"{names(members)}: torch averages {rule.source} as it was before the step's update, paddle as it leaves it{decay}"
    return Cause(
        Category.BUFFER, "moving_average_order", 0.95, evidence, "average the weights before optimizer.step() in paddle"
    )
