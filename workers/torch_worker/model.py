"""A torch model's tensors: named once each, described, read and written in place.

Two names of one tensor object are one entry with aliases: a tied weight has one gradient and one optimizer state.
Only persistent buffers count. Parameter objects are never replaced, as the optimizer holds them.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np
import torch

from stepalign.protocol.errors import CaseError
from stepalign.protocol.specs import TensorSpec
from stepalign.workers.capture import Arrays, Room, own_room
from stepalign.workers.torch_worker.modules import is_recurrent, module_type, walk
from stepalign.workers.torch_worker.tensors import dtype_name, from_numpy, to_numpy
from stepalign.workers.training import Training

_ON_PLATEAU = torch.optim.lr_scheduler.ReduceLROnPlateau
_SCHEDULERS = (torch.optim.lr_scheduler.LRScheduler, _ON_PLATEAU)
_IN_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


class NamedTensor(NamedTuple):
    """One tensor object of a model: its first name, where that name was found, and the other names it has."""

    name: str
    aliases: Tuple[str, ...]
    kind: str
    tensor: Any
    path: str
    module: Any
    role: str


def check_training(training: Training) -> None:
    """Raise CaseError unless model, optimizer and scheduler are torch's and can be driven step by step."""
    _check_type("model", training.model, (torch.nn.Module,))
    _check_type("optimizer", training.optimizer, (torch.optim.Optimizer,))
    if training.scheduler is not None:
        _check_type("scheduler", training.scheduler, _SCHEDULERS)
    if isinstance(training.optimizer, torch.optim.LBFGS):
        raise CaseError("LBFGS evaluates the loss several times a step and cannot be stepped in lockstep; use another")
    if not any(entry.kind == "parameter" for entry in named_tensors(training.model)):
        raise CaseError(f"the torch side's model {type(training.model).__name__} has no parameters to train")
    if training.scheduler_metric not in (None, "loss"):
        raise CaseError(f'scheduler_metric is {training.scheduler_metric!r}; expected None or "loss"')
    if training.scheduler_metric is None and isinstance(training.scheduler, _ON_PLATEAU):
        raise CaseError('ReduceLROnPlateau needs a value to watch: return Training(..., scheduler_metric="loss")')


def cast_model(model: Any, dtype: str) -> None:
    """Convert the floating-point tensors that are not of ``dtype``, keeping every Parameter object."""
    target = getattr(torch, dtype)
    for _, module in walk(model):
        for tensor in [*module._parameters.values(), *module._buffers.values()]:
            if tensor is not None and tensor.is_floating_point() and tensor.dtype != target:
                tensor.data = tensor.data.to(target)


def set_mode(model: Any, mode: str) -> None:
    """Put the model into ``"train"`` or ``"eval"``.

    In eval, recurrent layers stay in training with their dropout off, which is the same function: paddle on CPU and
    cudnn cannot run their backward otherwise.
    """
    model.train(mode == "train")
    for _, module in walk(model):
        if is_recurrent(module):
            module._stepalign_dropout = getattr(module, "_stepalign_dropout", module.dropout)
            module.dropout = module._stepalign_dropout if mode == "train" else 0.0
            module.training = True


def keep_mode(model: Any, mode: str) -> None:
    """Put the model into a mode now and before each of its forward passes, whatever the script does in between."""
    set_mode(model, mode)
    model.register_forward_pre_hook(lambda module, inputs: set_mode(module, mode))


def unwrap_model(model: Any) -> Any:
    """Return the module that a compiled or wrapped one is made of: its tensors have the names that the script gave."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def join_models(models: Dict[str, Any]) -> Any:
    """Return one model that holds several under their names. Raises CaseError for what is no model."""
    for name, model in models.items():
        _check_type(f"model {name!r}", model, (torch.nn.Module,))
    return torch.nn.ModuleDict(models)


def describe_tensors(model: Any) -> Tuple[TensorSpec, ...]:
    """Describe every parameter and persistent buffer, each once, in the model's order."""
    return tuple(
        TensorSpec(
            name=entry.name,
            kind=entry.kind,
            shape=tuple(int(size) for size in entry.tensor.shape),
            dtype=dtype_name(entry.tensor),
            trainable=entry.kind == "parameter" and _is_trainable(entry.tensor),
            module=entry.path,
            module_type=module_type(entry.module),
            role=entry.role,
            layout=_layout(entry.module, entry.role),
            aliases=entry.aliases,
            internal_name=_internal_name(entry),
        )
        for entry in named_tensors(model)
    )


def read_parameters(model: Any, room: Room = own_room) -> Arrays:
    """Copy every parameter, frozen ones included, by name."""
    return {entry.name: to_numpy(entry.tensor, room) for entry in named_tensors(model) if entry.kind == "parameter"}


def read_buffers(model: Any, room: Room = own_room) -> Arrays:
    """Copy every persistent buffer, by name."""
    return {entry.name: to_numpy(entry.tensor, room) for entry in named_tensors(model) if entry.kind == "buffer"}


def read_gradients(model: Any, room: Room = own_room) -> Arrays:
    """Copy every gradient as it stands, by parameter name; a parameter without one is left out."""
    return {
        entry.name: to_numpy(entry.tensor.grad, room)
        for entry in named_tensors(model)
        if entry.kind == "parameter" and entry.tensor.grad is not None
    }


def write_tensors(model: Any, arrays: Arrays) -> None:
    """Write arrays into the model's tensors in place, byte for byte; names may be aliases.

    Raises CaseError that names the tensor when the model has no such name, or shape or dtype differ.
    """
    targets = {name: entry.tensor for entry in named_tensors(model) for name in (entry.name, *entry.aliases)}
    for name, array in arrays.items():
        if name not in targets:
            raise CaseError(f"the torch model has no parameter or buffer named {name!r}; it has {_some(targets)}")
        fill_tensor(targets[name], array, name)


def fill_tensor(tensor: Any, array: np.ndarray, name: str) -> None:
    """Overwrite one tensor with an array of the same shape and dtype; raises CaseError that names it otherwise."""
    expected = (tuple(int(size) for size in tensor.shape), dtype_name(tensor))
    if (array.shape, array.dtype.name) != expected:
        raise CaseError(
            f"cannot write {name!r} on the torch side: expected shape {expected[0]} and dtype {expected[1]}, "
            f"came shape {array.shape} and dtype {array.dtype.name}"
        )
    with torch.no_grad():
        tensor.copy_(from_numpy(array))


def named_tensors(model: Any) -> List[NamedTensor]:
    """List every parameter and persistent buffer once, under its first name, with all its other names."""
    found: Dict[int, NamedTensor] = {}
    modules: Dict[str, Any] = {}
    torch_paths: Dict[str, str] = {}
    for path, module in walk(model):
        modules[path] = module
        torch_paths[path] = _torch_path(path, modules, torch_paths)
        for kind, leaf, tensor in _own_tensors(module):
            name = f"{path}.{leaf}" if path else leaf
            role = _torch_leaf(module, leaf)
            torch_name = f"{torch_paths[path]}.{role}" if torch_paths[path] else role
            entry = found.get(id(tensor)) or NamedTensor(name, (), kind, tensor, path, module, role)
            fresh = [each for each in (name, torch_name) if each != entry.name and each not in entry.aliases]
            found[id(tensor)] = entry._replace(aliases=(*entry.aliases, *dict.fromkeys(fresh)))
    return list(found.values())


def _own_tensors(module: Any) -> Iterator[Tuple[str, str, Any]]:
    """Yield kind, leaf name and tensor of what one module itself holds."""
    for leaf, parameter in module._parameters.items():
        if parameter is not None:
            yield "parameter", leaf, parameter
    for leaf, buffer in module._buffers.items():
        if buffer is not None and leaf not in module._non_persistent_buffers_set:
            yield "buffer", leaf, buffer


def _torch_path(path: str, modules: Dict[str, Any], torch_paths: Dict[str, str]) -> str:
    """Give a module's path in torch's terms: here, its path."""
    return path


def _torch_leaf(module: Any, leaf: str) -> str:
    """Give a tensor's leaf name in torch's terms: here, its leaf name."""
    return leaf


def _layout(module: Any, role: str) -> str:
    """Tell how a linear layer stores its weight: ``"out_in"``, ``"in_out"``, or empty for anything else."""
    if isinstance(module, torch.nn.Linear) and role == "weight":
        return "out_in"
    if isinstance(module, torch.nn.MultiheadAttention) and role in _IN_PROJECTIONS:
        return "out_in"
    if is_recurrent(module) and role.startswith("weight_hr"):
        return "out_in"
    if type(module).__name__ == "Conv1D" and role == "weight" and not isinstance(module, torch.nn.Conv1d):
        return "in_out"  # transformers' Conv1D: a linear layer stored as GPT-2 stored it
    return ""


def _is_trainable(parameter: Any) -> bool:
    """Tell whether backward computes this parameter's gradient."""
    return bool(parameter.requires_grad)


def _internal_name(entry: NamedTensor) -> str:
    """Give the name by which the optimizer knows a tensor: torch has none of its own."""
    return entry.name


def _check_type(field: str, value: Any, expected: Tuple[type, ...]) -> None:
    """Raise CaseError unless a field of Training is an instance of the framework's class."""
    if not isinstance(value, expected):
        raise CaseError(
            f"on the torch side build(case) must return a Training whose {field} is a "
            f"{expected[0].__module__}.{expected[0].__qualname__}; "
            f"came {type(value).__module__}.{type(value).__qualname__}"
        )


def _some(names: Dict[str, Any]) -> str:
    """List the first names for a message."""
    shown = ", ".join(list(names)[:6])
    return f"{shown}, ... ({len(names)} names)" if len(names) > 6 else shown
