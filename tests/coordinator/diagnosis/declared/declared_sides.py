"""Declarations of small models for the tests of the pre-flight comparison."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stepalign.protocol.specs import Declaration, GroupSpec, ModuleSpec, OptimizerSpec, SchedulerSpec, TensorSpec

ADAMW = {
    "lr": 1e-3,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "weight_decay": 0.01,
    "amsgrad": False,
    "decoupled_weight_decay": True,
}
ADAM = {**ADAMW, "decoupled_weight_decay": False}
SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}


@dataclass
class Side:
    """One side's declaration, to be changed before it is built."""

    names: tuple[str, ...] = ("fc.weight", "fc.bias", "norm.weight", "norm.bias")
    optimizer: str = "AdamW"
    framework_class: str = "AdamW"
    values: dict[str, Any] = field(default_factory=lambda: dict(ADAMW))
    groups: list[tuple[tuple[str, ...], dict[str, Any]]] | None = None
    effective: dict[str, dict[str, Any]] = field(default_factory=dict)
    clip: dict[str, Any] | None = None
    frozen: tuple[str, ...] = ()
    dtypes: dict[str, str] = field(default_factory=dict)
    modules: tuple[ModuleSpec, ...] = ()
    scheduler: SchedulerSpec | None = None
    metric: str | None = None
    after_backward: bool = False

    def build(self) -> Declaration:
        """Return the declaration; without ``groups`` one group holds every parameter."""
        groups = self.groups if self.groups is not None else [(self.names, self.values)]
        return Declaration(
            tensors=tuple(self._tensor(name) for name in self.names),
            modules=self.modules,
            optimizer=OptimizerSpec(
                type=self.optimizer,
                framework_class=self.framework_class,
                groups=tuple(GroupSpec(tuple(names), dict(values)) for names, values in groups),
                effective=self.effective,
                clip=self.clip,
            ),
            scheduler=self.scheduler,
            scheduler_metric=self.metric,
            has_after_backward=self.after_backward,
        )

    def _tensor(self, name: str) -> TensorSpec:
        module, role = name.rsplit(".", 1)
        return TensorSpec(
            name=name,
            kind="parameter",
            shape=(4,),
            dtype=self.dtypes.get(name, "float32"),
            trainable=name not in self.frozen,
            module=module,
            module_type="LayerNorm" if "norm" in module else "Linear",
            role=role,
            internal_name=f"{module.replace('.', '_')}_0.{'b' if role == 'bias' else 'w'}_0",
        )


def module(path: str, kind: str, training: bool = False, **hyperparameters: Any) -> ModuleSpec:
    """Return a module; its framework class is its type."""
    return ModuleSpec(path, kind, f"nn.{kind}", training, hyperparameters)
