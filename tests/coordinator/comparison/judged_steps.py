"""Steps of both sides by one optimizer rule, paddle's gradients a rounding apart, for a judge; a test changes what it is
about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stepalign.coordinator.cases.case import WeightsSection
from stepalign.coordinator.comparison.comparison import Comparison, StepJudgement
from stepalign.coordinator.comparison.judge import StepJudge
from stepalign.coordinator.comparison.tolerances import tolerances
from stepalign.coordinator.comparison.update_rules import predict
from stepalign.coordinator.sessions.naming import match_names
from stepalign.coordinator.sessions.step_plan import StepPair
from stepalign.protocol.messages import StepResult
from stepalign.protocol.specs import Declaration, GroupSpec, ModuleSpec, OptimizerSpec, Scalar, TensorSpec

Arrays = dict[str, np.ndarray]
Hyper = Mapping[str, Scalar]

SHAPES: dict[str, tuple[int, ...]] = {"fc.weight": (12, 10), "fc.bias": (12,), "out.weight": (4, 12)}
BUFFERS = {"bn.running_mean": (12,), "bn.running_var": (12,)}
RATE = 1e-3
NOISE = 1e-7


@dataclass
class Steps:
    """What a judge is given of some steps. ``torch`` and ``paddle`` are the declarations."""

    torch: Declaration
    paddle: Declaration
    initial: tuple[Arrays, Arrays]
    pairs: list[StepPair]
    dtype: str

    def judge(self, **options: Any) -> list[StepJudgement]:
        """Return the judgements of all steps by one judge."""
        judge = self.new_judge(**options)
        judge.begin(*self.initial)
        return [judge.judge(pair) for pair in self.pairs]

    def failed(self, **options: Any) -> list[Comparison]:
        """Return all comparisons that did not pass."""
        return [item for judgement in self.judge(**options) for item in judgement.comparisons if not item.passed]

    def known(self, **options: Any) -> set[tuple[str, str]]:
        """Return code and name of all known differences."""
        return {(item.code, item.torch_name) for judgement in self.judge(**options) for item in judgement.known}

    def new_judge(self, **options: Any) -> StepJudge:
        """Return a judge that has seen nothing."""
        names = match_names(self.torch.tensors, self.paddle.tensors, WeightsSection())
        return StepJudge(names, self.torch, self.paddle, self.dtype, tolerances(self.dtype, {}), **options)

    def change(self, step: int, kind: str, name: str, array: Any, side: str = "paddle") -> None:
        """Put another array in the place of what a step gave; None takes it away."""
        tensors = (self.pairs[step].candidate if side == "paddle" else self.pairs[step].reference).tensors
        tensors[kind].pop(name, None)
        if array is not None:
            tensors[kind][name] = array

    def of(self, step: int, kind: str, name: str) -> np.ndarray:
        """Return what paddle gave."""
        return self.pairs[step].candidate.tensors[kind][name]


def declare(rule: str, hyper: Hyper, dtype: str, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> Declaration:
    """Return a side whose one group holds every parameter."""
    tensors = [
        TensorSpec(name, kind, shape, dtype, kind == "parameter", name.rpartition(".")[0], "", name.rpartition(".")[2])
        for kind, named in (("parameter", shapes), ("buffer", BUFFERS))
        for name, shape in named.items()
    ]
    norm = ModuleSpec("bn", "BatchNorm1d", "BatchNorm1d", True, {"momentum": 0.1})
    optimizer = OptimizerSpec(rule, rule, (GroupSpec(tuple(shapes), dict(hyper)),))
    return Declaration(tuple(tensors), (norm,), optimizer, None, None, False)


def train(
    rule: str = "AdamW",
    torch: Hyper | None = None,
    paddle: Hyper | None = None,
    *,
    dtype: str = "float32",
    steps: int = 3,
    rates: tuple[float, float] = (RATE, RATE),
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
    sizes: Mapping[str, float] | None = None,
    clips: tuple[Callable[[Arrays], Arrays], Callable[[Arrays], Arrays]] | None = None,
    own: Mapping[str, Hyper] | None = None,
) -> Steps:
    """Step both sides by ``rule``, paddle with ``paddle`` where its hyper-parameters are not the declared ones of torch.

    ``sizes`` scales the gradients of a parameter. ``clips`` makes each side's used gradients of its raw ones. ``own`` has what
    holds for single parameters of paddle's, their rate among it (``_rate``).
    """
    random = np.random.default_rng(0)
    values = {name: random.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    means = {name: np.abs(random.standard_normal(shape)).astype(dtype) for name, shape in BUFFERS.items()}
    hypers = torch or {}, (torch or {}) if paddle is None else paddle
    parameters, states = (dict(values), dict(values)), ({name: {} for name in shapes}, {name: {} for name in shapes})
    pairs = []
    for step in range(steps):
        exact = {name: (sizes or {}).get(name, 1.0) * random.standard_normal(shape) for name, shape in shapes.items()}
        results = []
        for side in (0, 1):
            raw = {
                name: (gradient * (1.0 + side * NOISE * random.standard_normal(gradient.shape))).astype(dtype)
                for name, gradient in exact.items()
            }
            used = raw if clips is None else clips[side](raw)
            for name in shapes:
                special = dict((own or {}).get(name, {})) if side else {}
                rate = special.pop("_rate", rates[side])
                hyper = {**hypers[side], **special}
                now = predict(rule, hyper, parameters[side][name], used[name], states[side][name], float(rate), step)  # type: ignore[arg-type]
                assert now is not None
                parameters[side][name] = now.parameter.astype(dtype)
                states[side][name] = {
                    slot: np.asarray(value, np.int64 if slot == "step" else dtype) for slot, value in now.state.items()
                }
            tensors = {
                "gradient": raw,
                "parameter": dict(parameters[side]),
                "optimizer_state": {f"{name}/{slot}": value for name in shapes for slot, value in states[side][name].items()},
                "buffer": {name: value.copy() for name, value in means.items()},
                **({} if clips is None else {"used_gradient": used}),
            }
            results.append(StepResult(step, [rates[side]], np.asarray(1.0, dtype), "sent", tensors, (), 0.0))
        pairs.append(StepPair(step, results[0], results[1], "sent"))
    declared = declare(rule, torch or {}, dtype, shapes)
    initial = ({**values, **means}, {**values, **means})
    return Steps(declared, declare(rule, hypers[1], dtype, shapes), initial, pairs, dtype)


def with_optimizer(declaration: Declaration, **changes: Any) -> Declaration:
    """Return the declaration with another optimizer."""
    return replace(declaration, optimizer=replace(declaration.optimizer, **changes))
