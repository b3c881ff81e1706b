"""Judges one step of both sides: every kind in causal order, each by the tolerance and the method that suit it.

Rates and losses are compared as numbers, gradients against the scale of their tensor and of the model, optimizer state
and parameters against the optimizer's own rule given the side's own gradient (`update_judge`), buffers by value and by
the frameworks' known formulas. Pure: what it keeps between steps is the state before the next one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from stepalign.coordinator.comparison.allowances import Allowances
from stepalign.coordinator.comparison.average_judge import Around, AverageJudge
from stepalign.coordinator.comparison.blocks import magnitude, spread
from stepalign.coordinator.comparison.buffer_judge import BufferJudge
from stepalign.coordinator.comparison.canonical import (
    Arrays,
    Pieces,
    Reading,
    States,
    canonical_arrays,
    canonical_state,
    is_noise,
    largest_slots,
)
from stepalign.coordinator.comparison.comparison import Comparison, StepJudgement, compare_rate, compare_values
from stepalign.coordinator.comparison.gap_judge import compare_after_gap
from stepalign.coordinator.comparison.gradient_judge import GradientJudge
from stepalign.coordinator.comparison.judge_memory import JudgeMemory
from stepalign.coordinator.comparison.piece_comparer import PieceComparer
from stepalign.coordinator.comparison.rates import pair_groups
from stepalign.coordinator.comparison.screening import suspects
from stepalign.coordinator.comparison.step_scans import Scans, relative_drift
from stepalign.coordinator.comparison.tolerances import Tolerance
from stepalign.coordinator.comparison.update_judge import UpdateJudge, UpdateStep
from stepalign.coordinator.results.result import KnownDifference
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.coordinator.sessions.step_plan import StepPair
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
        self._reading = Reading(give_pages_back)
        self._allowances = Allowances(tolerances)
        self._scans = Scans(self._allowances.size)
        self._comparer = PieceComparer(names, allow_nonfinite, self._scans)
        self._rate_pairs = pair_groups(names, torch, paddle)
        self._gradients = GradientJudge(
            names, self._comparer, self._allowances, paddle.optimizer.clip is not None, strict
        )
        self._updates = UpdateJudge(names, torch.optimizer, paddle.optimizer, dtype)
        self._averages = AverageJudge(names, torch.optimizer, paddle.optimizer)
        self._strict = strict
        self._buffers = BufferJudge(names, self._comparer, self._allowances, torch, strict)
        self._before = self._nothing()
        self._state_before: Tuple[States, States] = ({}, {})
        self._initial: Tuple[Comparison, ...] = ()

    def begin(self, torch: Named, paddle: Named) -> Tuple[Comparison, ...]:
        """Compare the initial weights and keep them as the state before the first step."""
        self._reading.expect(_size_bytes(torch) + _size_bytes(paddle))
        pair = (
            canonical_arrays(self._names, "torch", torch, self._reading),
            canonical_arrays(self._names, "paddle", paddle, self._reading),
        )
        self._before = pair
        self._scans.take(pair)
        self._initial = tuple(
            self._comparer.compare("initial_parameter", 0, piece.name, pair) for piece in self._names.pieces
        )
        return self._initial

    def memory(self) -> JudgeMemory:
        """Return all that judging the next step depends on; arrays as they lie, none is turned for it."""
        torch, paddle = ({name: pieces.parts for name, pieces in side.items()} for side in self._state_before)
        return JudgeMemory(
            (self._before[0].parts, self._before[1].parts),
            (torch, paddle),
            self._allowances.drift,
            self._allowances.peak_rate,
            self._updates.variants,
            self._updates.rounding,
            self._averages.adrift,
        )

    def remember(self, memory: JudgeMemory) -> None:
        """Continue from what another judge of the same sides gave as its memory."""
        self._before = (Pieces(memory.before[0], self._reading), Pieces(memory.before[1], self._reading))
        torch, paddle = (
            {name: Pieces(slots, self._reading) for name, slots in side.items()} for side in memory.state_before
        )
        self._state_before = (torch, paddle)
        self._allowances.drift, self._allowances.peak_rate = memory.drift, memory.peak_rate
        self._updates.variants, self._updates.rounding = memory.variants, memory.rounding
        self._averages.adrift = memory.adrift
        self._initial = ()

    def resynchronised(self) -> None:
        """Note that the candidate continues from the reference's state."""
        self._before = (self._before[0], self._before[0])
        self._state_before = (self._state_before[0], self._state_before[0])
        self._allowances.drift = 0.0

    def judge(self, pair: StepPair) -> StepJudgement:
        """Return the judgement of one step.

        State that comes alone after a step without any is what the next update starts from: it is compared by value.
        """
        sides = (pair.reference, pair.candidate)
        self._reading.expect(pair.size_bytes())
        known: List[KnownDifference] = []
        comparisons: List[Comparison] = [self._judge_batch(pair)]
        if self._initial:
            comparisons += self._initial
            self._initial = ()
        comparisons += self._judge_rates(pair)
        comparisons += self._judge_activations(pair)
        comparisons.append(self._judge_loss(pair))
        if not pair.has_tensors():
            return self._without_tensors(pair.step, comparisons)
        raw = self._canonical(sides, "gradient")
        used = self._used_gradients(sides, raw)
        for gradients in (raw, used):
            self._scans.take(gradients)
        if raw[0] or raw[1]:
            comparisons += self._gradients.judge(pair.step, raw, used, known)
        after, state = self._canonical(sides, "parameter"), self._canonical_state(sides)
        self._scans.take(after, with_squares=True)
        for name in state[0].keys() & state[1].keys():
            self._scans.take((state[0][name], state[1][name]))
        floor = self._allowances.noise_floor(raw[0])
        noise = {
            name: f"the gradient of {name} is rounding noise"
            for name, array in raw[0].items()
            if is_noise(array, floor, self._allowances.size)
        }
        start = not (self._before[0] or raw[0] or raw[1])
        if after[0] and after[1]:
            comparisons += (
                compare_after_gap(
                    pair.step, self._names, self._comparer, self._allowances, state, after, self._averages.adrift
                )
                if start
                else self._judge_updates(pair, raw, used, state, after, floor, noise, known)
            )
        buffers = self._canonical(sides, "buffer")
        if (buffers[0] or buffers[1]) and not start:
            comparisons += self._judge_buffers(pair.step, after, buffers, comparisons, noise, known)
        comparisons = self._comparer.complete(comparisons)
        self._state_before = state
        if after[0] and after[1]:
            self._allowances.drift = relative_drift(after, noise, self._scans)
            self._before = (
                buffers[0].over(after[0]).over(self._before[0]),
                buffers[1].over(after[1]).over(self._before[1]),
            )
        else:
            self._before = self._nothing()
        self._forget_scans()
        return StepJudgement(pair.step, tuple(comparisons), tuple(known), self._allowances.drift)

    def _without_tensors(self, step: int, comparisons: List[Comparison]) -> StepJudgement:
        """Return the judgement of a step that rates and losses alone were collected of."""
        self._before, self._state_before = self._nothing(), ({}, {})
        self._forget_scans()
        return StepJudgement(step, tuple(self._comparer.complete(comparisons)), (), self._allowances.drift)

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
        rates = (pair.reference.lr, pair.candidate.lr)
        rtol, atol = self._allowances.rate(rates[0])
        found = []
        for ours, theirs, factor in self._rate_pairs:
            values = (
                rates[0][ours] if ours < len(rates[0]) else None,
                rates[1][theirs] * factor if theirs < len(rates[1]) else None,
            )
            found.append(compare_rate(pair.step, f"group {ours}", f"group {theirs}", *values, rtol, atol))
        return found

    def _judge_activations(self, pair: StepPair) -> List[Comparison]:
        """Compare outputs; what goes into a module is another's output, or is the caller's to arrange."""
        torch = pair.reference.tensors.get("activation", {})
        paddle = pair.candidate.tensors.get("activation", {})
        if not torch:
            return []
        paths = dict(self._names.modules)
        found = []
        for path, array in torch.items():
            if "@input" in path or path.startswith("@"):
                continue
            module, mark, rest = _split_path(path)
            theirs = f"{paths.get(module, module)}{mark}{rest}"
            rtol, atol = self._allowances.tensor("activation", array, 0.0)
            other = paddle.get(theirs)
            item = compare_values(
                pair.step, "activation", path, theirs, array, other, rtol, atol, self._comparer.allow_nonfinite
            )
            if other is not None:
                self._comparer.note(item, ({path: array}, {path: other}), path)
            found.append(item)
        return found

    def _judge_loss(self, pair: StepPair) -> Comparison:
        rtol, atol = self._allowances.loss()
        loss = (pair.reference.loss, pair.candidate.loss)
        return compare_values(pair.step, "loss", "loss", "loss", *loss, rtol, atol, self._comparer.allow_nonfinite)

    def _judge_updates(
        self,
        pair: StepPair,
        raw: Tuple[Arrays, Arrays],
        used: Tuple[Arrays, Arrays],
        state: Tuple[States, States],
        after: Tuple[Arrays, Arrays],
        floor: float,
        noise: Dict[str, str],
        known: List[KnownDifference],
    ) -> List[Comparison]:
        states: List[Comparison] = []
        parameters: List[Comparison] = []
        largest = largest_slots(state[0], self._allowances.size)
        step = UpdateStep(
            pair.step, (pair.reference.lr, pair.candidate.lr), self._before, used, self._state_before, state, after, self._scans
        )
        for piece in self._names.pieces:
            if piece.kind != "parameter":
                continue
            name = piece.name
            noisy = name in noise
            rtol, atol = self._allowances.parameter(self._before[0].get(name), after[0].get(name), noisy)
            values = self._comparer.compare("parameter", pair.step, name, after, rtol, atol)
            judged = self._updates.judge(step, name, suspects(values, after))
            known += judged.known
            if noisy and judged.parameter is not None and judged.parameter[0] and moved_apart(after, name, atol):
                known.append(_noise_update(name, raw[0][name], floor))
            parameters.append(self._settle(values, judged.parameter))
            slots: Tuple[Arrays, Arrays] = (state[0].get(name, {}), state[1].get(name, {}))
            for slot in sorted({*slots[0], *slots[1]}):
                rtol, atol = self._allowances.tensor("optimizer_state", slots[0].get(slot), largest.get(slot, 0.0))
                values = self._comparer.compare("optimizer_state", pair.step, f"{name}/{slot}", slots, rtol, atol, slot)
                states.append(self._settle(values, judged.state.get(slot)))
        around = Around(self._before, after)
        parameters, followed = self._averages.judge(around, parameters, frozenset(), noise, known)
        noise.update(followed)
        return states + parameters

    def _judge_buffers(
        self,
        step: int,
        after: Tuple[Pieces, Pieces],
        buffers: Tuple[Pieces, Pieces],
        earlier: List[Comparison],
        noise: Mapping[str, str],
        known: List[KnownDifference],
    ) -> List[Comparison]:
        """Compare buffers by value and by known formulas, then by what they follow; ``earlier``: the parameters' are there."""
        ahead = len(known)
        found = self._buffers.judge(step, self._before, buffers, list(noise), known)
        if self._strict:
            return found
        known_of = {item.torch_name: f"{item.torch_name} is a known difference" for item in known[ahead:]}
        passed = {item.name for item in earlier if item.kind == "parameter" and item.passed}
        around = Around(self._before, (buffers[0].over(after[0]), buffers[1].over(after[1])))
        return self._averages.judge(around, found, passed, {**noise, **known_of}, known)[0]

    def _settle(self, values: Comparison, verdict: Optional[Tuple[bool, str]]) -> Comparison:
        """Let the rule's verdict stand over the plain values', where there is one and the values exist and are
        finite.
        """
        if verdict is None or values.measures is None or "not finite" in values.reason:
            return values
        passed, reason = verdict
        return replace(values, passed=passed, reason=reason, exact=True)

    def _nothing(self) -> Tuple[Pieces, Pieces]:
        return Pieces({}, self._reading), Pieces({}, self._reading)

    def _forget_scans(self) -> None:
        """Forget what was found of the step's arrays, but for the sizes of those that the next update starts from."""
        self._scans.forget()
        self._allowances.size.forget_dead()

    def _canonical(self, sides: Tuple[StepResult, StepResult], kind: str) -> Tuple[Pieces, Pieces]:
        return (
            canonical_arrays(self._names, "torch", sides[0].tensors.get(kind, {}), self._reading),
            canonical_arrays(self._names, "paddle", sides[1].tensors.get(kind, {}), self._reading),
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
            canonical_state(self._names, "torch", sides[0].tensors.get("optimizer_state", {}), self._reading),
            canonical_state(self._names, "paddle", sides[1].tensors.get("optimizer_state", {}), self._reading),
        )


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
