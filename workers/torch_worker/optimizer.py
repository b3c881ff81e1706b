"""A torch optimizer in common terms: torch's rule and hyper-parameter names, and what holds for each parameter.

A hyper-parameter of a rule that both frameworks have is reported on both sides, a constant where one framework leaves
no choice; one that only this framework has is reported when it is not at the value that makes it vanish.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional

import torch

from stepalign.protocol.errors import CaseError
from stepalign.protocol.specs import GroupSpec, OptimizerSpec, Scalar
from stepalign.workers.torch_worker.model import describe_tensors, named_tensors

_EXECUTION_ONLY = ("foreach", "fused", "capturable", "differentiable")
_SPLIT = {"betas": ("beta1", "beta2")}
_DECOUPLED = {"AdamW": True, "Adam": False, "NAdam": False, "RAdam": False}


class OwnedParameter(NamedTuple):
    """A parameter that an optimizer updates: its name in the model, the object, and its group with its number."""

    name: str
    parameter: Any
    number: int
    group: Dict[str, Any]


def describe_optimizer(optimizer: Any, model: Any) -> OptimizerSpec:
    """Describe an optimizer; raises CaseError when it holds a parameter that the model does not have."""
    owned = owned_parameters(optimizer, model)
    groups = []
    effective: Dict[str, Dict[str, Scalar]] = {}
    for number, group in enumerate(parameter_groups(optimizer)):
        hyperparameters = _group_hyperparameters(optimizer, group)
        members = [each for each in owned if each.number == number]
        groups.append(GroupSpec(tuple(each.name for each in members), hyperparameters))
        for each in members:
            deviations = _deviations(optimizer, group, hyperparameters, each.parameter)
            if deviations:
                effective[each.name] = deviations
    held = {each.name for each in owned}
    trainable = [each.name for each in describe_tensors(model) if each.trainable]
    return OptimizerSpec(
        type=_rule(optimizer),
        framework_class=f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        groups=tuple(groups),
        effective=effective,
        clip=_clip(optimizer),
        missing=tuple(name for name in trainable if name not in held),
    )


def learning_rates(optimizer: Any) -> List[float]:
    """Read, for each group, the float64 rate that the next update will use."""
    return [float(group["lr"]) for group in parameter_groups(optimizer)]


def clear_gradients(optimizer: Any) -> None:
    """Leave every parameter of the optimizer without a gradient, not with a zero one."""
    optimizer.zero_grad(set_to_none=True)


def parameter_groups(optimizer: Any) -> List[Dict[str, Any]]:
    """List the optimizer's groups, each a dict with its ``params``."""
    return list(optimizer.param_groups)


def owned_parameters(optimizer: Any, model: Any) -> List[OwnedParameter]:
    """List what the optimizer updates, in its order; raises CaseError for a parameter that the model does not have."""
    entries = {id(entry.tensor): entry for entry in named_tensors(model)}
    owned = []
    for number, group in enumerate(parameter_groups(optimizer)):
        for parameter in group["params"]:
            entry = entries.get(id(parameter))
            if entry is None:
                raise CaseError(
                    f"group {number} of the torch side's optimizer holds a parameter of shape "
                    f"{tuple(parameter.shape)} that is not the model's: build the optimizer over the model's own "
                    "parameters, after any conversion of the model, and put losses with parameters into the model"
                )
            if entry.kind == "parameter":
                owned.append(OwnedParameter(entry.name, parameter, number, group))
    return owned


def framework_class(optimizer: Any) -> str:
    """Name the framework's optimizer class that an optimizer is or derives from; empty if it is none."""
    names = (each.__name__ for each in type(optimizer).__mro__ if each.__module__.startswith("torch.optim."))
    return next((name for name in names if name != "Optimizer"), "")


def option(optimizer: Any, group: Dict[str, Any], key: str) -> Any:
    """Read a group's own value, else the one that the optimizer was built with; None where there is none."""
    return group.get(key, optimizer.defaults.get(key))


def parameter_rate(optimizer: Any, owned: OwnedParameter) -> float:
    """Give the rate of one parameter's next update, which is its group's."""
    return learning_rates(optimizer)[owned.number]


def _rule(optimizer: Any) -> str:
    """Name the update rule: torch's class name, or the class name of a user's own optimizer."""
    own = type(optimizer)
    return own.__name__ if not own.__module__.startswith("torch.optim.") else framework_class(optimizer)


def _group_hyperparameters(optimizer: Any, group: Dict[str, Any]) -> Dict[str, Scalar]:
    """Collect one group's hyper-parameters; ``lr`` is the one that the schedule starts from."""
    values: Dict[str, Scalar] = {}
    for key in optimizer.defaults:
        value = option(optimizer, group, key)
        if key in _SPLIT:
            values.update({name: _plain(part) for name, part in zip(_SPLIT[key], value)})
        elif key not in _EXECUTION_ONLY and not (key == "maximize" and not value):
            values[key] = _plain(value)
    values["lr"] = float(group.get("initial_lr", group["lr"]))
    kind = framework_class(optimizer)
    if kind in _DECOUPLED:
        values.setdefault("decoupled_weight_decay", _DECOUPLED[kind])
    return values


def _deviations(
    optimizer: Any, group: Dict[str, Any], hyperparameters: Dict[str, Scalar], parameter: Any
) -> Dict[str, Scalar]:
    """Resolve what holds for one parameter in place of its group's values: torch has nothing of the kind."""
    return {}


def _clip(optimizer: Any) -> Optional[Dict[str, Scalar]]:
    """Describe gradient clipping inside the optimizer: torch's have none."""
    return None


def _plain(value: Any) -> Scalar:
    """Reduce a hyper-parameter to a plain value: a tensor its numbers, a row of numbers a tuple, others their name."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, (list, tuple)) and all(isinstance(each, (int, float)) for each in value):
        return tuple(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(getattr(value, "__name__", value))
