"""One regime of gradients: both optimizers built anew, driven, judged step by step, and how far they came apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.comparison.gradient_regimes import gradients, initial_parameters, losses
from stepalign.coordinator.comparison.judge import StepJudge
from stepalign.coordinator.comparison.tolerances import tolerances
from stepalign.coordinator.results.records import StepsLog
from stepalign.coordinator.running.recorder import Record, Recorder
from stepalign.coordinator.running.run_state import Watcher
from stepalign.coordinator.sessions.naming import NameMap, rename
from stepalign.coordinator.sessions.optimizer_session import OptimizerSession
from stepalign.coordinator.sessions.step_plan import StepPair
from stepalign.protocol.errors import CaseError, WorkerFailure
from stepalign.protocol.messages import Named, StepResult
from stepalign.protocol.specs import Declaration
from stepalign.protocol.tensors import digest

KINDS = ("gradient", "used_gradient", "optimizer_state", "parameter")
MESSAGE_BYTES = 32 << 20
"""About how much one message of gradients and its answer may hold; what a step moves is some eight times its weights."""

KEPT_BYTES = 256 << 20
"""How much of the steps up to the first that fails is kept to explain it."""


@dataclass(frozen=True)
class Apart:
    """How far the parameters came apart: relative to how far torch's had moved by then, at which step and parameter."""

    ratio: float = 0.0
    step: int = 0
    name: str = ""


@dataclass
class RegimeRun:
    """What one regime gave. ``moved`` has, by step and parameter, the greatest element of torch's update."""

    regime: str
    names: NameMap
    torch: Declaration
    paddle: Declaration
    initial: Mapping[str, Named]
    record: Record
    worst: Apart = field(default_factory=Apart)
    moved: dict[tuple[int, str], float] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How many steps are complete."""
        return self.record.steps

    def moved_at(self, item: Comparison) -> float:
        """Return the greatest element of torch's update of the parameter that a comparison is about; 0 if unknown."""
        return self.moved.get((item.step, item.name.partition("/")[0]), 0.0)


def drive_regime(
    session: OptimizerSession, case: Case, regime: str, held: bool, log: StepsLog, watcher: Watcher
) -> RegimeRun:
    """Build both optimizers, over given parameters or build(case)'s own, and drive them through one regime."""
    initial = _build(session, case, held)
    names, file = session.names, case.file
    torch, paddle = session.declarations["torch"], session.declarations["paddle"]
    judge = StepJudge(
        names, torch, paddle, file.dtype, tolerances(file.dtype, file.tolerance), file.compare.strict,
        file.compare.allow_nonfinite,
    )  # fmt: skip
    judge.begin(initial["torch"], initial["paddle"])
    recorder = Recorder(judge, None, 0, watcher.step)
    run = RegimeRun(regime, names, torch, paddle, initial, recorder.record)
    shapes = _trained(names, torch)
    tracker = _Tracker(run, names.canonical("torch", initial["torch"], "parameter"))
    total = file.optimizer.steps
    weight_bytes = sum(8 * int(np.prod(shape)) for shape in shapes.values())
    chunk = max(1, min(total, MESSAGE_BYTES // max(1, 8 * weight_bytes)))
    sequence = gradients(regime, shapes, file.dtype, total, file.seed)
    metrics = losses(total)
    kept_bytes = 0
    for first in range(0, total, chunk):
        steps = sequence[first : first + chunk]
        sides = {side: [_carry(names, side, session.declarations[side], step) for step in steps] for side in ("torch", "paddle")}
        results = session.apply_gradients(first, sides, list(metrics[first : first + len(steps)]), KINDS)
        for offset, step in enumerate(steps):
            pair = _pair(first + offset, step, sides, offset, results)
            failed = bool(run.record.failures)
            recorder.take(pair)
            tracker.take(pair, log)
            kept_bytes += 16 * weight_bytes
            if not failed and kept_bytes <= KEPT_BYTES:
                run.record.pairs[pair.step] = pair
    return run


def _build(session: OptimizerSession, case: Case, held: bool) -> dict[str, Named]:
    """Have both sides build anew; return, by role, the tensors that each starts from."""
    if not held:
        session.build_optimizers({"torch": {}, "paddle": {}}, {})
        return session.exchange_weights()
    file = case.file
    given = initial_parameters(file.optimizer.parameters, file.dtype, file.seed)
    renamed = {rename(name, file.weights.rename): array for name, array in given.items()}
    if len(renamed) != len(given):
        raise CaseError("weights.rename gives two of optimizer.parameters one name")
    parameters = {"torch": given, "paddle": renamed}
    session.build_optimizers(parameters, {})
    return parameters


def _trained(names: NameMap, torch: Declaration) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the pieces that torch trains, by canonical name."""
    trainable = {spec.name for spec in torch.tensors if spec.trainable}
    return {
        piece.name: piece.shape for piece in names.pieces if piece.kind == "parameter" and piece.torch.tensor in trainable
    }


def _carry(names: NameMap, side: str, declaration: Declaration, canonical: Named) -> Named:
    """Return canonical gradients as one side's own; a tensor has none where none of its pieces has."""
    specs = {spec.name: spec for spec in declaration.tensors}
    found: Named = {}
    for piece in names.pieces:
        if piece.name in canonical:
            slot = piece.slot(side)
            if slot.tensor not in found:
                found[slot.tensor] = np.zeros(specs[slot.tensor].shape, specs[slot.tensor].dtype)
            slot.write(found[slot.tensor], canonical[piece.name])
    return found


def _pair(
    step: int, canonical: Named, sides: Mapping[str, list[Named]], offset: int, results: Mapping[str, list[StepResult]]
) -> StepPair:
    """Return one step of both sides, once each is known to have had the gradients that it was sent."""
    common = digest(canonical)
    checked = []
    for side in ("torch", "paddle"):
        result = results[side][offset]
        if result.step != step or result.batch_digest != digest(sides[side][offset]):
            raise WorkerFailure(f"the {side} worker did not update with the gradients of step {step} that it was sent")
        checked.append(replace(result, batch_digest=common))
    return StepPair(step, checked[0], checked[1], common)


class _Tracker:
    """Follows how far the sides' parameters come apart, and writes a line a step."""

    def __init__(self, run: RegimeRun, initial: Named) -> None:
        self._run = run
        self._initial = {name: np.asarray(array, np.float64) for name, array in initial.items()}
        self._before = dict(self._initial)

    def take(self, pair: StepPair, log: StepsLog) -> None:
        """Take in one step."""
        names = self._run.names
        ours = names.canonical("torch", pair.reference.tensors["parameter"], "parameter")
        theirs = names.canonical("paddle", pair.candidate.tensors["parameter"], "parameter")
        worst = Apart()
        for name, array in ours.items():
            now = np.asarray(array, np.float64)
            with np.errstate(invalid="ignore"):
                moved = _largest(now - self._initial[name])
                apart = _largest(now - np.asarray(theirs[name], np.float64))
                self._run.moved[pair.step, name] = _largest(now - self._before[name])
            self._before[name] = now
            if moved > 0.0 and apart / moved > worst.ratio:
                worst = Apart(apart / moved, pair.step, name)
        if worst.ratio > self._run.worst.ratio:
            self._run.worst = worst
        log.append(
            {
                "regime": self._run.regime,
                "step": pair.step,
                "passed": self._run.record.failures.last_step != pair.step,
                "lr": {"torch": pair.reference.lr, "paddle": pair.candidate.lr},
                "difference": worst.ratio,
                "torch_name": worst.name,
            }
        )


def _largest(array: np.ndarray) -> float:
    return float(np.max(np.abs(array), initial=0.0))
