"""Judges one step of both sides: every kind in causal order, each by the tolerance and the method that suit it.

Rates and losses are compared as numbers, gradients against the scale of their tensor and of the model, optimizer state
and parameters against the optimizer's own rule given the side's own gradient (`update_judge`), buffers by value and by
the frameworks' known formulas. Pure: what it keeps between steps is the state before the next one.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from stepalign.coordinator.comparison.blocks import magnitude, spread
from stepalign.coordinator.comparison.canonical import (
    Arrays,
    Pieces,
    Sizes,
    States,
    Turned,
    canonical_arrays,
    canonical_state,
    is_noise,
    largest_slots,
    relative_drift,
)
from stepalign.coordinator.comparison.comparison import AS_USED, Comparison, StepJudgement, compare_values
from stepalign.coordinator.comparison.known_differences import (
    batch_norm_running_variance,
    clip_norm_epsilon,
    noise_driven_running_mean,
)
from stepalign.coordinator.comparison.rates import RATE_ATOL_PER_PEAK, pair_groups
from stepalign.coordinator.comparison.screening import complete_worst, suspects
from stepalign.coordinator.comparison.tolerances import Tolerance
from stepalign.coordinator.comparison.update_judge import UpdateJudge, UpdateStep
from stepalign.coordinator.results.result import KnownDifference
from stepalign.coordinator.sessions.lockstep import StepPair
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.messages import Named, StepResult
from stepalign.protocol.specs import Declaration


class StepJudge:
    """Judges steps in order. Both sides' arrays are in canonical terms from here on."""

    def __init__(
        self,
        names: NameMap,
        torch: Declaration,
        paddle: Declaration,
        dtype: str,
        tolerances: Mapping[str, Tolerance],
        strict: bool = False,
        allow_nonfinite: bool = False,
        give_pages_back: Optional[Callable[[], None]] = None,
    ) -> None:
        self._names = names
        self._turned = Turned(give_pages_back)
        self._paddle_names = {piece.name: piece.paddle.tensor for piece in names.pieces}
        self._size = Sizes()
        self._tolerances = tolerances
        self._strict = strict
        self._allow_nonfinite = allow_nonfinite
        self._rate_pairs = pair_groups(names, torch, paddle)
        self._group_counts = (len(torch.optimizer.groups), len(paddle.optimizer.groups))
        self._updates = UpdateJudge(names, torch.optimizer, paddle.optimizer, dtype)
        self._peak_rate = 0.0
        self._clips_inside = paddle.optimizer.clip is not None
        self._momenta = {
            f"{module.path}.{leaf}".lstrip("."): module.hyperparameters.get("momentum")
            for module in torch.modules
            for leaf in ("running_mean", "running_var")
        }
        self._before = self._nothing()
        self._state_before: Tuple[States, States] = ({}, {})
        self._drift = 0.0
        self._compared: Dict[Tuple[str, str], Tuple[Arrays, Arrays, str]] = {}
        self._initial: Tuple[Comparison, ...] = ()

    def begin(self, torch: Named, paddle: Named) -> Tuple[Comparison, ...]:
        """Compare the initial weights and keep them as the state before the first step."""
        self._turned.expect(_size_bytes(torch) + _size_bytes(paddle))
        pair = (
            canonical_arrays(self._names, "torch", torch, self._turned),
            canonical_arrays(self._names, "paddle", paddle, self._turned),
        )
        self._before = pair
        self._initial = tuple(self._compare("initial_parameter", 0, piece.name, pair) for piece in self._names.pieces)
        return self._initial

    def resynchronised(self) -> None:
        """Note that the candidate continues from the reference's state."""
        self._before = (self._before[0], self._before[0])
        self._state_before = (self._state_before[0], self._state_before[0])
        self._drift = 0.0

    def judge(self, pair: StepPair) -> StepJudgement:
        """Return the judgement of one step."""
        sides = (pair.reference, pair.candidate)
        self._turned.expect(sum(_size_bytes(named) for side in sides for named in side.tensors.values()))
        known: List[KnownDifference] = []
        comparisons: List[Comparison] = [self._judge_batch(pair)]
        if self._initial:
            comparisons += self._initial
            self._initial = ()
        comparisons += self._judge_rates(pair)
        comparisons += self._judge_activations(pair)
        comparisons.append(self._judge_loss(pair))
        raw = self._canonical(sides, "gradient")
        used = self._used_gradients(sides, raw)
        if raw[0] or raw[1]:
            comparisons += self._judge_gradients(pair.step, raw, used, known)
        after, state = self._canonical(sides, "parameter"), self._canonical_state(sides)
        floor = self._noise_floor(raw[0])
        if after[0] and after[1]:
            comparisons += self._judge_updates(pair, raw, used, state, after, floor, known)
        buffers = self._canonical(sides, "buffer")
        if buffers[0] or buffers[1]:
            wandering = [name for name, array in raw[0].items() if is_noise(array, floor, self._size)]
            comparisons += self._judge_buffers(pair.step, buffers, wandering, known)
        comparisons = complete_worst(comparisons, self._compared)
        self._compared = {}
        self._state_before = state
        if after[0] and after[1]:
            self._drift = relative_drift(after, raw, floor, self._size)
            self._before = (
                buffers[0].over(after[0]).over(self._before[0]),
                buffers[1].over(after[1]).over(self._before[1]),
            )
        else:
            self._before = self._nothing()
        self._turned.forget_all_but(self._held())
        self._size = Sizes()
        return StepJudgement(pair.step, tuple(comparisons), tuple(known), self._drift)

    def _judge_batch(self, pair: StepPair) -> Comparison:
        digests = (pair.reference.batch_digest, pair.candidate.batch_digest)
        passed = digests == (pair.batch_digest, pair.batch_digest)
        reason = (
            ""
            if passed
            else f"sent {pair.batch_digest[:12]}, torch saw {digests[0][:12]}, paddle saw {digests[1][:12]}"
        )
        return Comparison(pair.step, "batch", "batch", "batch", passed, reason=reason, exact=True)

    def _judge_rates(self, pair: StepPair) -> List[Comparison]:
        tolerance = self._tolerances["lr"]
        rates = (pair.reference.lr, pair.candidate.lr)
        found = []
        self._peak_rate = max(self._peak_rate, *(abs(rate) for rate in rates[0] if math.isfinite(rate)), 0.0)
        atol = max(tolerance.atol, RATE_ATOL_PER_PEAK * self._peak_rate)
        for ours, theirs, factor in self._rate_pairs:
            values = (
                np.float64(rates[0][ours]) if ours < len(rates[0]) else None,
                np.float64(rates[1][theirs] * factor) if theirs < len(rates[1]) else None,
            )
            arrays = [None if value is None else np.asarray(value) for value in values]
            name = (f"group {ours}", f"group {theirs}")
            found.append(compare_values(pair.step, "lr", *name, arrays[0], arrays[1], tolerance.rtol, atol, exact=True))
        return found

    def _judge_activations(self, pair: StepPair) -> List[Comparison]:
        """Compare outputs; what goes into a module is another's output, or is the caller's to arrange."""
        torch = pair.reference.tensors.get("activation", {})
        paddle = pair.candidate.tensors.get("activation", {})
        paths = dict(self._names.modules)
        found = []
        for path, array in torch.items():
            if path.endswith("@input"):
                continue
            module, mark, rest = _split_path(path)
            theirs = f"{paths.get(module, module)}{mark}{rest}"
            rtol, atol = self._allowance("activation", array, 0.0)
            found.append(
                compare_values(
                    pair.step, "activation", path, theirs, array, paddle.get(theirs), rtol, atol, self._allow_nonfinite
                )
            )
        return found

    def _judge_loss(self, pair: StepPair) -> Comparison:
        tolerance = self._tolerances["loss"]
        rtol = tolerance.rtol + tolerance.per_drift * self._drift
        loss = (pair.reference.loss, pair.candidate.loss)
        return compare_values(pair.step, "loss", "loss", "loss", *loss, rtol, tolerance.atol, self._allow_nonfinite)

    def _judge_gradients(
        self, step: int, raw: Tuple[Arrays, Arrays], used: Tuple[Arrays, Arrays], known: List[KnownDifference]
    ) -> List[Comparison]:
        largest = max((self._size(array) for array in raw[0].values()), default=0.0)
        found = [self._judge_gradient(step, name, raw, largest) for name in self._backward_order(raw)]
        if used[0] is raw[0] and used[1] is raw[1]:
            return found
        recognised, factor = None, 1.0
        if self._clips_inside:
            recognised, factor = clip_norm_epsilon(raw[0], used[0], raw[1], used[1])
        explained = factor != 1.0 and not self._strict
        if recognised is not None:
            known.append(recognised)
        candidate = (
            {name: (array / factor).astype(array.dtype) for name, array in used[1].items()} if explained else used[1]
        )
        largest_used = max((self._size(array) for array in used[0].values()), default=0.0)
        for name in self._backward_order(used):
            item = self._judge_gradient(step, name, (used[0], candidate), largest_used)
            if not item.passed:
                found.append(_with_note(item, AS_USED))
        return found

    def _judge_gradient(self, step: int, name: str, pair: Tuple[Arrays, Arrays], largest: float) -> Comparison:
        array, other = pair[0].get(name), pair[1].get(name)
        if (array is None) != (other is None):
            present = array if array is not None else other
            if present is not None and not np.any(present):
                return Comparison(
                    step,
                    "gradient",
                    name,
                    self._names.paddle_name(name),
                    True,
                    reason="zero on one side, none on the other",
                )
        rtol, atol = self._allowance("gradient", array, largest)
        return self._compare("gradient", step, name, pair, rtol, atol)

    def _judge_updates(
        self,
        pair: StepPair,
        raw: Tuple[Arrays, Arrays],
        used: Tuple[Arrays, Arrays],
        state: Tuple[States, States],
        after: Tuple[Arrays, Arrays],
        floor: float,
        known: List[KnownDifference],
    ) -> List[Comparison]:
        states: List[Comparison] = []
        parameters: List[Comparison] = []
        largest = largest_slots(state[0], self._size)
        step = UpdateStep(
            pair.step, (pair.reference.lr, pair.candidate.lr), self._before, used, self._state_before, state, after
        )
        for piece in self._names.pieces:
            if piece.kind != "parameter":
                continue
            name = piece.name
            noisy = is_noise(raw[0].get(name), floor, self._size)
            rtol, atol = self._update_allowance(name, after[0].get(name), noisy)
            values = self._compare("parameter", pair.step, name, after, rtol, atol)
            judged = self._updates.judge(step, name, suspects(values, after))
            known += judged.known
            if noisy and judged.parameter is not None and judged.parameter[0] and moved_apart(after, name, atol):
                known.append(_noise_update(name, raw[0][name], floor))
            parameters.append(self._settle(values, judged.parameter))
            slots: Tuple[Arrays, Arrays] = (state[0].get(name, {}), state[1].get(name, {}))
            for slot in sorted({*slots[0], *slots[1]}):
                rtol, atol = self._allowance("optimizer_state", slots[0].get(slot), largest.get(slot, 0.0))
                values = self._compare("optimizer_state", pair.step, f"{name}/{slot}", slots, rtol, atol, key=slot)
                states.append(self._settle(values, judged.state.get(slot)))
        return states + parameters

    def _settle(self, values: Comparison, verdict: Optional[Tuple[bool, str]]) -> Comparison:
        """Let the rule's verdict stand over the plain values', where there is one and the values exist and are
        finite.
        """
        if verdict is None or values.measures is None or values.measures.nonfinite_differs:
            return values
        passed, reason = verdict
        if "not finite" in values.reason:
            return values
        return Comparison(
            values.step, values.kind, values.torch_name, values.paddle_name, passed, values.rtol, values.atol,
            values.measures, reason, exact=True,
        )  # fmt: skip

    def _judge_buffers(
        self, step: int, buffers: Tuple[Arrays, Arrays], wandering: Sequence[str], known: List[KnownDifference]
    ) -> List[Comparison]:
        found = []
        for piece in self._names.pieces:
            if piece.kind != "buffer":
                continue
            rtol, atol = self._allowance("buffer", buffers[0].get(piece.name), 0.0)
            atol += self._tolerances["buffer"].of_tensor * deviation_of(buffers[0], piece.name)
            item = self._compare("buffer", step, piece.name, buffers, rtol, atol)
            recognised = (
                None if self._strict or item.passed else self._known_buffer(piece.name, buffers, wandering, atol)
            )
            if recognised is not None:
                known.append(recognised)
                item = Comparison(
                    step,
                    "buffer",
                    item.torch_name,
                    item.paddle_name,
                    True,
                    rtol,
                    atol,
                    item.measures,
                    recognised.evidence,
                )
            found.append(item)
        return found

    def _known_buffer(
        self, name: str, buffers: Tuple[Arrays, Arrays], wandering: Sequence[str], atol: float
    ) -> Optional[KnownDifference]:
        momentum = self._momenta.get(name)
        if (
            name not in buffers[0]
            or name not in buffers[1]
            or name not in self._before[0]
            or name not in self._before[1]
        ):
            return None
        before = (self._before[0][name], self._before[1][name])
        after = (buffers[0][name], buffers[1][name])
        if not isinstance(momentum, (int, float)):
            return None
        if name.endswith("running_mean"):
            biases = {
                bias: (self._before[0][bias], self._before[1][bias])
                for bias in wandering
                if bias in self._before[0] and bias in self._before[1]
            }
            return noise_driven_running_mean(name, before, after, biases, float(momentum), atol)
        return batch_norm_running_variance(name, before[0], after[0], before[1], after[1], float(momentum), 2 * atol)

    def _compare(
        self,
        kind: str,
        step: int,
        name: str,
        pair: Tuple[Arrays, Arrays],
        rtol: float = 0.0,
        atol: float = 0.0,
        key: Optional[str] = None,
    ) -> Comparison:
        """Compare what both sides have under ``name``, or under ``key`` where ``pair`` holds one tensor's slots."""
        key = name if key is None else key
        tensor, slash, slot = name.rpartition("/")
        paddle_name = self._paddle_names.get
        theirs = f"{paddle_name(tensor, tensor)}/{slot}" if slash else paddle_name(name, name)
        exact = kind == "initial_parameter"
        ours, others = pair[0].get(key), pair[1].get(key)
        if ours is not None and others is not None:
            self._compared[kind, name] = (*pair, key)
        return compare_values(step, kind, name, theirs, ours, others, rtol, atol, self._allow_nonfinite, exact)

    def _allowance(self, kind: str, reference: Optional[np.ndarray], largest: float) -> Tuple[float, float]:
        """Return rtol and atol for one tensor: the kind's own, its scale's and its model's parts, grown by the
        drift.
        """
        tolerance = self._tolerances[kind]
        size = 0.0 if reference is None else self._size(reference)
        of_tensor = tolerance.of_tensor + min(tolerance.per_drift * self._drift, 0.1)
        return tolerance.rtol, tolerance.atol + of_tensor * size + tolerance.of_model * largest

    def _update_allowance(self, name: str, after: Optional[np.ndarray], noise: bool) -> Tuple[float, float]:
        """Return rtol and atol for a parameter judged by value: relative to its update, plus rounding of the
        parameter.
        """
        tolerance = self._tolerances["parameter"]
        before = self._before[0].get(name)
        if after is None or before is None:
            return tolerance.rtol, tolerance.atol
        update = spread(before, after)
        part = 2.0 if noise else tolerance.of_tensor + min(tolerance.per_drift * self._drift, 0.1)
        drift = self._drift * self._size(before)
        return tolerance.rtol, tolerance.atol + part * update + drift

    def _noise_floor(self, gradients: Arrays) -> float:
        largest = max((self._size(array) for array in gradients.values()), default=0.0)
        return self._tolerances["gradient"].of_model * largest

    def _backward_order(self, gradients: Tuple[Arrays, Arrays]) -> Sequence[str]:
        return [
            piece.name
            for piece in reversed(self._names.pieces)
            if piece.kind == "parameter" and (piece.name in gradients[0] or piece.name in gradients[1])
        ]

    def _nothing(self) -> Tuple[Pieces, Pieces]:
        return Pieces({}, self._turned), Pieces({}, self._turned)

    def _held(self) -> List[np.ndarray]:
        """Return what is needed again: the state before the next step."""
        held = [*self._before[0].parts.values(), *self._before[1].parts.values()]
        for states in self._state_before:
            for slots in states.values():
                held += slots.parts.values()
        return held

    def _canonical(self, sides: Tuple[StepResult, StepResult], kind: str) -> Tuple[Pieces, Pieces]:
        return (
            canonical_arrays(self._names, "torch", sides[0].tensors.get(kind, {}), self._turned),
            canonical_arrays(self._names, "paddle", sides[1].tensors.get(kind, {}), self._turned),
        )

    def _used_gradients(
        self, sides: Tuple[StepResult, StepResult], raw: Tuple[Pieces, Pieces]
    ) -> Tuple[Pieces, Pieces]:
        changed = self._canonical(sides, "used_gradient")
        return (
            changed[0].over(raw[0]) if changed[0] else raw[0],
            changed[1].over(raw[1]) if changed[1] else raw[1],
        )

    def _canonical_state(self, sides: Tuple[StepResult, StepResult]) -> Tuple[States, States]:
        return (
            canonical_state(self._names, "torch", sides[0].tensors.get("optimizer_state", {}), self._turned),
            canonical_state(self._names, "paddle", sides[1].tensors.get("optimizer_state", {}), self._turned),
        )


def deviation_of(buffers: Arrays, name: str) -> float:
    """Return the standard deviation that belongs to a running mean: a mean of zero is known to a part of it; else 0."""
    stem, found, _ = name.rpartition("running_mean")
    variance = buffers.get(f"{stem}running_var") if found else None
    return math.sqrt(max(magnitude(variance), 0.0)) if variance is not None else 0.0


def moved_apart(after: Tuple[Arrays, Arrays], name: str, atol: float) -> bool:
    """Say whether a parameter's values differ by more than a twentieth of what its noise may do to it."""
    return spread(after[0][name], after[1][name]) > 0.05 * atol


def _noise_update(name: str, gradient: np.ndarray, floor: float) -> KnownDifference:
    return KnownDifference(
        "rounding_noise_update",
        name,
        f"its gradient is rounding noise (at most {magnitude(gradient):.1g}; below {floor:.1g} nothing but noise is expected), "
        "so what it moves by is chance on either side; each side follows the optimizer's rule",
    )


def _size_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays.values())


def _split_path(path: str) -> Tuple[str, str, str]:
    for mark in "@:#":
        module, found, rest = path.partition(mark)
        if found:
            return module, mark, rest
    return path, "", ""


def _with_note(item: Comparison, note: str) -> Comparison:
    return Comparison(
        item.step, item.kind, item.torch_name, item.paddle_name, item.passed, item.rtol, item.atol, item.measures,
        f"{note}: {item.reason}", item.exact,
    )  # fmt: skip
