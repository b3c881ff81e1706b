"""Judges what an optimizer did to one parameter, given that side's own gradient, state and rate.

A difference of two gradients that is mere rounding can move a parameter by the whole rate under Adam, and hide or fake
a mistake. So the rule that torch declares is first checked on torch's own numbers; where it holds, paddle's numbers are
held against the same rule with paddle's own inputs. What is left is the optimizer's doing alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Tuple

import numpy as np

from stepalign.coordinator.comparison.blocks import all_finite
from stepalign.coordinator.comparison.judged_elements import choose_elements
from stepalign.coordinator.comparison.step_scans import Scans, as_stored
from stepalign.coordinator.comparison.tally import UpdateResidual
from stepalign.coordinator.comparison.update_residual import UpdateJudgement, judge_update
from stepalign.coordinator.results.result import KnownDifference
from stepalign.coordinator.sessions.naming import NameMap, Piece
from stepalign.protocol.specs import OptimizerSpec, Scalar

Arrays = Mapping[str, np.ndarray]
Pair = Tuple[Arrays, Arrays]
State = Mapping[str, Arrays]
StatePair = Tuple[State, State]

_PADDLE_VARIANTS: Dict[str, Dict[str, Scalar]] = {
    "RMSprop": {"lr_in_velocity": True},
    "Adamax": {"eps_on_norm": True},
}
"""How paddle's rule of the same name differs where no argument can change it (seen in 3.3.1)."""


@dataclass(frozen=True)
class UpdateStep:
    """Both sides' numbers around one update, canonical, torch first. State is by parameter, then by slot."""

    step: int
    lr: Tuple[List[float], List[float]]
    before: Pair
    gradient: Pair
    state_before: StatePair
    state_after: StatePair
    after: Pair
    scans: Scans


@dataclass(frozen=True)
class Judged:
    """The rule's verdict: (passed, reason) for the parameter and for each slot; None or absent where no rule
    applies.
    """

    parameter: Optional[Tuple[bool, str]] = None
    state: Dict[str, Tuple[bool, str]] = field(default_factory=dict)
    known: Tuple[KnownDifference, ...] = ()


class UpdateJudge:
    """Judges updates by the rule that the torch side declares."""

    def __init__(self, names: NameMap, torch: OptimizerSpec, paddle: OptimizerSpec, dtype: str) -> None:
        self._dtype = dtype
        self._specs = (torch, paddle)
        self._pieces: Dict[str, Piece] = {piece.name: piece for piece in names.pieces}
        self._hyper = (hyperparameters(torch), hyperparameters(paddle))
        self._groups = (group_of(torch), group_of(paddle))
        self.variants: Dict[str, Dict[str, Scalar]] = {}
        self.rounding: Dict[Tuple[str, int], str] = {}

    def judge(self, step: UpdateStep, name: str, suspects: np.ndarray) -> Judged:
        """Return the verdict on one parameter's update. ``suspects``: flat indices of elements that differ by value."""
        before, gradient, after = (as_stored(side, name) for side in (step.before[1], step.gradient[1], step.after[1]))
        if after is None or before is None:
            return Judged()
        if gradient is None:
            return self._judge_unmoved(step, name)
        chosen = choose_elements(after.size, suspects)
        ours = self._residual(step, name, 0, {}, chosen)
        if ours is None or not ours.fits:
            return Judged()
        theirs = self._residual(step, name, 1, self.variants.get(name, {}), chosen)
        known: Tuple[KnownDifference, ...] = ()
        if theirs is not None and not theirs.fits:
            theirs, known = self._as_paddle_does(step, name, theirs, chosen)
        if theirs is None:
            return Judged()
        if theirs.variant and theirs.fits and self._dtype == "float64":
            known += (
                KnownDifference(
                    theirs.variant,
                    name,
                    "paddle keeps this optimizer's hyper-parameters in float32; "
                    f"residual {theirs.worst:.2g} of what rounding may do",
                ),
            )
        state = {slot: (item.fits, _reason(item)) for slot, item in theirs.state.items()}
        return Judged((theirs.parameter.fits, _reason(theirs.parameter)), state, known)

    def _as_paddle_does(
        self, step: UpdateStep, name: str, plain: UpdateJudgement, chosen: Optional[np.ndarray]
    ) -> Tuple[UpdateJudgement, Tuple[KnownDifference, ...]]:
        """Try paddle's own form of the rule, with the nearest epsilon: what no port can avoid is a known difference."""
        variant = dict(_PADDLE_VARIANTS.get(self._specs[0].type, {}))
        if not variant or self._specs[1].type != self._specs[0].type:
            return plain, ()
        if self._specs[0].type == "RMSprop":
            eps = self._hyper[0][self._pieces[name].torch.tensor].get("eps", 1e-8)
            variant["eps_inside_sqrt"] = float(eps) ** 2 if isinstance(eps, (int, float)) else None
        tried = self._residual(step, name, 1, variant, chosen)
        if tried is None or not tried.fits:
            return plain, ()
        self.variants[name] = variant
        return tried, (
            KnownDifference(
                f"{self._specs[0].type.lower()}_formula",
                name,
                f"paddle's {self._specs[0].type} has another formula ({', '.join(variant)}); "
                f"residual {tried.worst:.2g} of what rounding may do",
            ),
        )

    def _judge_unmoved(self, step: UpdateStep, name: str) -> Judged:
        """Without a gradient a parameter stays as it is, on both sides."""
        moved = [
            side
            for number, side in enumerate(("torch", "paddle"))
            if name in step.after[number]
            and name in step.before[number]
            and not np.array_equal(step.after[number][name], step.before[number][name], equal_nan=True)
        ]
        if moved == ["paddle"]:
            return Judged((False, "moved on paddle in a step in which it has no gradient; it stays on torch"))
        return Judged((True, "")) if not moved else Judged()

    def _residual(
        self, step: UpdateStep, name: str, side: int, variant: Mapping[str, Scalar], chosen: Optional[np.ndarray]
    ) -> Optional[UpdateJudgement]:
        """Hold one side's numbers at the ``chosen`` elements against torch's rule; None where the rule is unknown or
        lacks input.
        """
        piece = self._pieces[name]
        hyper = self._hyper[0].get(piece.torch.tensor)
        group = self._groups[side].get(piece.slot("torch" if side == 0 else "paddle").tensor)
        arrays = [as_stored(source[side], name) for source in (step.before, step.gradient, step.after)]
        if hyper is None or group is None or any(array is None for array in arrays):
            return None
        before, gradient, after = (np.asarray(array) for array in arrays)
        if not before.shape == gradient.shape == after.shape:
            return None
        scanned = step.scans.of(step.gradient, name)
        if not (scanned is not None and scanned.finite) and not all_finite(gradient):
            return None
        multiplier = (
            self._hyper[side].get(piece.slot("torch" if side == 0 else "paddle").tensor, {}).get("lr_multiplier", 1.0)
        )
        lr = step.lr[side][group] * (float(multiplier) if isinstance(multiplier, (int, float)) else 1.0)
        judgement = judge_update(
            self._specs[0].type,
            {**hyper, **variant},
            before,
            gradient,
            _slots(step.state_before[side], name),
            after,
            _slots(step.state_after[side], name),
            lr,
            step.step,
            self._dtype,
            self.rounding.get((name, side), ""),
            chosen,
        )
        if judgement is not None and judgement.fits and self._dtype == "float32":
            self.rounding[name, side] = judgement.variant
        return judgement


def _slots(state: State, name: str) -> Dict[str, np.ndarray]:
    """Return a parameter's slots as they lie."""
    slots = state.get(name, {})
    found = {slot: as_stored(slots, slot) for slot in slots}
    return {slot: array for slot, array in found.items() if array is not None}


def hyperparameters(spec: OptimizerSpec) -> Dict[str, Dict[str, Scalar]]:
    """Return each parameter's hyper-parameters: its group's, with what really holds for it on top."""
    return {
        name: {**group.hyperparameters, **spec.effective.get(name, {})}
        for group in spec.groups
        for name in group.parameters
    }


def group_of(spec: OptimizerSpec) -> Dict[str, int]:
    """Return the number of the group that holds each parameter."""
    return {name: index for index, group in enumerate(spec.groups) for name in group.parameters}


def _reason(residual: UpdateResidual) -> str:
    if residual.fits:
        return ""
    if residual.worst <= 1.0:
        return f"departs from torch's rule on the whole by {residual.drift:.3g} of itself, {residual.drift_allowed:.3g} allowed"
    return (
        f"departs from torch's rule, given its own gradient, by {residual.max_abs:.3g} at {list(residual.index)}, "
        f"{residual.worst:.3g} times what rounding may do ({residual.outside:.2%} of the elements)"
    )
