"""Traces of a torch training and its port, stepped by the rules themselves, their gradients a little apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from stepalign.coordinator.comparison.update_rules import predict
from stepalign.coordinator.diagnosis.updates.update_trace import ParameterTrace, UpdateRecord
from stepalign.protocol.specs import Scalar

Hyper = Mapping[str, Scalar]
NOISE = 1e-6

# name: shape, spread of the initial values (None: ones), role, module type, size of its gradients
PARAMETERS: dict[str, tuple[tuple[int, ...], float | None, str, str, float]] = {
    "fc.weight": ((24, 16), 0.1, "weight", "Linear", 1e-2),
    "fc.bias": ((24,), 0.0, "bias", "Linear", 3e-3),
    "norm.weight": ((24,), None, "weight", "LayerNorm", 1e-3),
    "norm.bias": ((24,), 0.0, "bias", "LayerNorm", 1e-3),
    "emb.weight": ((30, 8), 1.0, "weight", "Embedding", 1e-4),
    "out.weight": ((8, 24), 0.2, "weight", "Linear", 2e-2),
}


@dataclass(frozen=True)
class Port:
    """What to simulate: torch's rule, and paddle's where it is another. ``own`` overrides paddle's by parameter."""

    rule: str
    torch: Hyper
    paddle: Hyper
    paddle_rule: str = ""
    torch_own: Mapping[str, Hyper] = field(default_factory=dict)
    own: Mapping[str, Hyper] = field(default_factory=dict)
    lr: float = 1e-3
    steps: int = 4
    dtype: str = "float32"
    seed: int = 0

    def hyper(self) -> dict[str, Hyper]:
        """Return torch's hyper-parameters by parameter."""
        return {name: {**self.torch, **self.torch_own.get(name, {})} for name in PARAMETERS}


def simulate(port: Port) -> list[ParameterTrace]:
    """Return the traces of all parameters. ``_rate`` in a parameter's own hyper-parameters multiplies its rate."""
    rng, noise = np.random.default_rng(port.seed), np.random.default_rng(port.seed + 1)
    traces = []
    for name, (shape, spread, role, module_type, size) in PARAMETERS.items():
        start = np.ones(shape) if spread is None else rng.normal(size=shape) * spread
        gradients = (rng.normal(size=shape) + rng.normal(size=(port.steps, *shape))) * size
        noisy = gradients * (1.0 + NOISE * noise.normal(size=gradients.shape))
        paddle = {**port.paddle, **port.own.get(name, {})}
        ours = _records(port.rule, port.hyper()[name], start, gradients, port)
        theirs = _records(port.paddle_rule or port.rule, paddle, start, noisy, port)
        traces.append(ParameterTrace(name, name, port.dtype, ours, theirs, role, module_type, shape))
    return traces


def _records(rule: str, hyper: Hyper, start: np.ndarray, gradients: np.ndarray, port: Port) -> tuple[UpdateRecord, ...]:
    value, state = start.astype(port.dtype), {}
    rate = hyper.get("_rate", 1.0)
    plain = {key: setting for key, setting in hyper.items() if key != "_rate"}
    records = []
    for step, exact in enumerate(gradients):
        gradient = exact.astype(port.dtype)
        predicted = predict(rule, plain, value, gradient, state, port.lr * float(rate), step)  # type: ignore[arg-type]
        assert predicted is not None
        after = predicted.parameter.astype(port.dtype)
        later = {slot: array.astype(port.dtype) for slot, array in predicted.state.items()}
        records.append(UpdateRecord(step, port.lr, value, gradient, None, state, after, later))
        value, state = after, later
    return tuple(records)
