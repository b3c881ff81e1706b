"""What of torch is constructed for a training, and over which model an expression constructs it."""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any, Dict, List, Tuple

import torch

_COMPILER = "torch._dynamo"
_constructed_without: List[str] = []
"""The optimizers that were constructed without the compiler, which torch would have imported for them."""


def defer_compiler() -> None:
    """Have optimizers constructed without importing what compiles models, which takes as long as torch itself.

    torch imports it at the first optimizer, to keep it from compiling `Optimizer.add_param_group`, and keeps what does so as
    an attribute of that function (`torch/_compile.py`). Where nothing has imported it, nothing is compiled; as soon as
    something has, torch's own way is taken. Another torch, which keeps it elsewhere, imports it as ever.
    """
    optimizer = torch.optim.Optimizer
    add = getattr(optimizer.add_param_group, "__wrapped__", None)
    if add is None or _COMPILER in sys.modules:
        return

    def add_uncompiled(*arguments: Any, **named: Any) -> Any:
        if _COMPILER not in sys.modules:
            _constructed_without.append(type(arguments[0]).__name__)
            return add(*arguments, **named)
        vars(add).pop("__dynamo_disable", None)
        return optimizer.add_param_group(*arguments, **named)

    vars(add)["__dynamo_disable"] = add_uncompiled


def import_deferred() -> None:
    """Import the compiler if an optimizer was constructed without it: training will want it."""
    if _constructed_without:
        importlib.import_module(_COMPILER)


def constructed_classes() -> Dict[str, type]:
    """Name the optimizers and schedules by their public dotted names."""
    found: Dict[str, type] = {}
    for prefix, module, base in (
        ("torch.optim.", torch.optim, torch.optim.Optimizer),
        ("torch.optim.lr_scheduler.", torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler),
    ):
        for name, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, base) and value is not base and not name.startswith("_"):
                found[prefix + name] = value
    return found


def clipping_functions() -> List[Tuple[Any, str, str]]:
    """List what clips gradients: where it is found, under which attribute, and its public name."""
    names = ("clip_grad_norm_", "clip_grad_value_")
    return [(torch.nn.utils, name, f"torch.nn.utils.{name}") for name in names]


def sample_model() -> Any:
    """Build a small model, for expressions that construct an optimizer over its parameters."""
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))


def give_gradients(model: Any) -> None:
    """Give every parameter of a model a gradient, so that it can be clipped."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
