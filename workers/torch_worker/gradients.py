"""An optimizer driven by given gradients: parameters without a model, and updates without a loss.

A parameter is made with the very bytes that were sent. One without a gradient in a step has none, not a zero one.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Tuple

import numpy as np
import torch

from stepalign.protocol.errors import CaseError
from stepalign.workers.capture import Arrays, Capture, StepOutcome
from stepalign.workers.torch_worker.model import named_tensors
from stepalign.workers.torch_worker.step import update
from stepalign.workers.torch_worker.tensors import from_numpy
from stepalign.workers.training import Training


def forget_names() -> None:
    """Let the names that the framework gives to parameters start anew: torch gives none."""


def hold_parameters(arrays: Arrays) -> Tuple[Any, Dict[str, Any]]:
    """Make a module that holds a trainable parameter for each array, and return it with the parameters by name.

    A dotted name is a path of modules, as in any model.
    """
    root = torch.nn.Module()
    parameters = {}
    for name, array in arrays.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        parameters[name] = _parameter(name, array)
        module.register_parameter(leaf, parameters[name])
    return root, parameters


def check_parts(optimizer: Any, scheduler: Any) -> None:
    """Raise CaseError unless what ``optimizer(case, parameters)`` returned are torch's, and can be driven."""
    wanted = "on the torch side optimizer(case, parameters) must return an optimizer, or (optimizer, scheduler), or these"
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise CaseError(f"{wanted} and a function that clips: a torch.optim.Optimizer; came {_class(optimizer)}")
    if type(optimizer).step is torch.optim.LBFGS.step:
        raise CaseError("LBFGS evaluates the loss several times a step: no gradients can be given to it")
    schedulers = (torch.optim.lr_scheduler.LRScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    if scheduler is not None and not isinstance(scheduler, schedulers):
        raise CaseError(f"{wanted} and a function that clips: a torch.optim.lr_scheduler.LRScheduler; came {_class(scheduler)}")


def apply_gradients(
    training: Training, gradients: Arrays, loss: float, capture: Capture, enter: Callable[[str], None]
) -> StepOutcome:
    """Run one update with these gradients; ``enter`` is told each phase as it begins. ``loss`` is what a schedule sees.

    Raises CaseError for a gradient of a parameter that there is not.
    """
    _write_gradients(training.model, gradients)
    tensors: Dict[str, Arrays] = {}
    rates = update(training, loss, capture, tensors, enter)
    return StepOutcome(lr=rates, loss=np.asarray(loss, np.float64), tensors=tensors)


def _write_gradients(model: Any, gradients: Arrays) -> None:
    """Give each parameter the gradient under its name, and take away those of all others."""
    entries = {entry.name: entry.tensor for entry in named_tensors(model) if entry.kind == "parameter"}
    unknown = sorted(set(gradients) - set(entries))
    if unknown:
        raise CaseError(f"a gradient of {unknown[0]!r} came; the torch side has no parameter of that name")
    for name, parameter in entries.items():
        parameter.grad = from_numpy(gradients[name]) if name in gradients else None


def _parameter(name: str, array: np.ndarray) -> Any:
    """Make one trainable parameter."""
    return torch.nn.Parameter(from_numpy(array))


def _class(value: Any) -> str:
    """Name the class of a value."""
    return f"{type(value).__module__}.{type(value).__qualname__}"
