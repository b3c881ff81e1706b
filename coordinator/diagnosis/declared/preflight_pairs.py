"""One parameter on both sides, with the hyper-parameters that hold for it when all is resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stepalign.coordinator.diagnosis.cause import Cause, Finding
from stepalign.coordinator.diagnosis.declared.common_terms import as_float, flat
from stepalign.protocol.specs import OptimizerSpec, Scalar, TensorSpec


@dataclass(frozen=True)
class ParameterPair:
    """One trainable parameter on both sides, with the hyper-parameters that hold for it."""

    torch: TensorSpec
    paddle: TensorSpec
    torch_values: dict[str, Scalar]
    paddle_values: dict[str, Scalar]


def resolve(optimizer: OptimizerSpec) -> dict[str, dict[str, Scalar]]:
    """Return, for each parameter that a group holds, the hyper-parameters that hold for it in the end."""
    return {
        name: {**flat(group.hyperparameters), **flat(optimizer.effective.get(name, {}))}
        for group in optimizer.groups
        for name in group.parameters
    }


def decay_of(values: Mapping[str, Scalar]) -> float:
    """Return the L2 decay of one parameter; torch's ASGD adds its ``lambd``."""
    return as_float(values.get("weight_decay")) + as_float(values.get("lambd") if "t0" in values else 0.0)


def call_of(optimizer: OptimizerSpec) -> str:
    """Return how paddle's code calls this optimizer's constructor."""
    return f"paddle.optimizer.{class_of(optimizer)}(...)"


def class_of(optimizer: OptimizerSpec) -> str:
    """Return the optimizer's class without its package."""
    return optimizer.framework_class.rsplit(".", 1)[-1]


def rate_of(values: Mapping[str, Scalar]) -> float:
    """Return the rate of one parameter before any schedule, its multiplier included."""
    return as_float(values.get("lr")) * as_float(values.get("lr_multiplier"), 1.0)


def finding_for(cause: Cause, kind: str, pair: ParameterPair, torch: str, paddle: str) -> Finding:
    """Return a finding that matters, about one pair of parameters."""
    return Finding(cause, kind, pair.torch.name, pair.paddle.name, True, torch, paddle)
