"""What each side declares about its model and its training, in terms that both frameworks share.

A declaration names things; numbers travel beside it as tensors. Everything here is a frozen dataclass of plain
values, so that it crosses the wire through `schema` and stays comparable with ``==``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Optional, Tuple, Union

Scalar = Union[None, bool, int, float, str, Tuple[Union[int, float], ...]]
"""A hyper-parameter's value. A tuple holds e.g. a kernel size."""


@dataclass(frozen=True)
class TensorSpec:
    """One parameter or persistent buffer of a model.

    ``name`` is the side's own dotted name. ``aliases`` are all other names that mean the same storage: tied
    weights, the doubled entries of paddle's recurrent layers, and, on the paddle side, the name that torch gives the
    same thing (``bn.running_mean`` for ``bn._mean``). ``layout`` is ``"out_in"`` for the weight of a linear layer
    stored as [out, in], ``"in_out"`` for one stored as [in, out], and empty for everything else.
    ``internal_name`` is what the framework's optimizer calls it (paddle: ``linear_0.w_0``; torch: the same as name).
    """

    name: str
    kind: str  # "parameter" | "buffer"
    shape: Tuple[int, ...]
    dtype: str
    trainable: bool
    module: str
    module_type: str
    role: str
    layout: str = ""
    aliases: Tuple[str, ...] = ()
    internal_name: str = ""


@dataclass(frozen=True)
class ModuleSpec:
    """One module of a model, in forward-definition order: its path, its type and its number-changing arguments.

    ``type`` is the common name (torch's class name: ``"BatchNorm2d"``, ``"Linear"``, ``"MultiheadAttention"``) where
    the class belongs to the framework, else the user's class name. ``hyperparameters`` use torch's names and
    torch's conventions on both sides (batch-norm ``momentum`` 0.1 means the same on both).
    """

    path: str
    type: str
    framework_class: str
    training: bool
    hyperparameters: Dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupSpec:
    """One parameter group of an optimizer, by the model's own tensor names, with torch's hyper-parameter names."""

    parameters: Tuple[str, ...]
    hyperparameters: Dict[str, Scalar]


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer in common terms.

    ``type`` is torch's class name of the same rule (paddle ``Momentum`` is ``"SGD"``). ``effective`` gives, for each
    parameter whose values differ from its group's, what really holds for it once decay filters, regularizers and
    rate multipliers are resolved. ``clip`` describes clipping inside the optimizer (paddle's ``grad_clip``) or is
    None. ``missing`` lists trainable parameters of the model that no group holds.
    """

    type: str
    framework_class: str
    groups: Tuple[GroupSpec, ...]
    effective: Dict[str, Dict[str, Scalar]] = field(default_factory=dict)
    clip: Optional[Dict[str, Scalar]] = None
    missing: Tuple[str, ...] = ()


@dataclass(frozen=True)
class SchedulerSpec:
    """A learning-rate schedule: torch's class name of the same rule where one exists, and its arguments."""

    type: str
    framework_class: str
    hyperparameters: Dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Declaration:
    """All that one side says about its training before the first step."""

    tensors: Tuple[TensorSpec, ...]
    modules: Tuple[ModuleSpec, ...]
    optimizer: OptimizerSpec
    scheduler: Optional[SchedulerSpec]
    scheduler_metric: Optional[str]
    has_after_backward: bool
