"""A paddle optimizer in common terms: torch's rule and hyper-parameter names, and what holds for each parameter.

A hyper-parameter of a rule that both frameworks have is reported on both sides, a constant where one framework leaves
no choice; one that only this framework has is reported when it is not at the value that makes it vanish. What paddle
decides parameter by parameter (decay filters, regularizers, rate multipliers, exemption from clipping) is resolved as
its update does it, and reported where it deviates from the group.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional

import paddle

from stepalign.protocol.errors import CaseError
from stepalign.protocol.specs import GroupSpec, OptimizerSpec, Scalar
from stepalign.workers.paddle_worker.model import describe_tensors, named_tensors

_TORCH_RULES = {"Momentum": "SGD", "RMSProp": "RMSprop"}
_FIELDS = {
    "SGD": "",
    "Momentum": "momentum nesterov=use_nesterov",
    "Adam": "beta1 beta2 eps=epsilon",
    "AdamW": "beta1 beta2 eps=epsilon",
    "Adamax": "beta1 beta2 eps=epsilon",
    "NAdam": "beta1 beta2 eps=epsilon momentum_decay",
    "RAdam": "beta1 beta2 eps=epsilon",
    "Lamb": "beta1 beta2 eps=epsilon",
    "Adagrad": "eps=epsilon initial_accumulator_value",
    "Adadelta": "rho eps=epsilon",
    "RMSProp": "alpha=rho eps_inside_sqrt=epsilon momentum centered",
    "Rprop": "etas step_sizes=learning_rate_range",
}
_CONSTANTS: Dict[str, Dict[str, Scalar]] = {
    "SGD": {"momentum": 0.0, "dampening": 0.0, "nesterov": False},
    "ASGD": {"momentum": 0.0, "dampening": 0.0, "nesterov": False},
    "Momentum": {"dampening": 0.0},
    "Adagrad": {"lr_decay": 0.0},
    "Adam": {"decoupled_weight_decay": False},
    "AdamW": {"decoupled_weight_decay": True},
    "NAdam": {"decoupled_weight_decay": False},
    "RAdam": {"decoupled_weight_decay": False},
    "Lamb": {"decoupled_weight_decay": True},
}


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
    rate = float(optimizer.get_lr())
    return [rate * float(group.get("learning_rate", 1.0)) for group in parameter_groups(optimizer)]


def clear_gradients(optimizer: Any) -> None:
    """Leave every parameter of the optimizer without a gradient, not with a zero one."""
    optimizer.clear_grad(set_to_zero=False)


def parameter_groups(optimizer: Any) -> List[Dict[str, Any]]:
    """List the optimizer's groups, each a dict with its ``params``."""
    groups = optimizer._param_groups
    return list(groups) if groups and isinstance(groups[0], dict) else [{"params": list(groups)}]


def owned_parameters(optimizer: Any, model: Any) -> List[OwnedParameter]:
    """List what the optimizer updates, in its order; raises CaseError for a parameter that the model does not have.

    ``model.parameters()`` hands paddle's optimizers the running statistics too, which they never update.
    """
    entries = {id(entry.tensor): entry for entry in named_tensors(model)}
    owned = []
    for number, group in enumerate(parameter_groups(optimizer)):
        for parameter in group["params"]:
            entry = entries.get(id(parameter))
            if entry is None:
                raise CaseError(
                    f"group {number} of the paddle side's optimizer holds a parameter of shape "
                    f"{tuple(parameter.shape)} that is not the model's: build the optimizer over the model's own "
                    "parameters, after any conversion of the model, and put losses with parameters into the model"
                )
            if entry.kind == "parameter":
                owned.append(OwnedParameter(entry.name, parameter, number, group))
    return owned


def framework_class(optimizer: Any) -> str:
    """Name the framework's optimizer class that an optimizer is or derives from; empty if it is none."""
    names = (each.__name__ for each in type(optimizer).__mro__ if each.__module__.startswith("paddle.optimizer."))
    return next((name for name in names if name != "Optimizer"), "")


def option(optimizer: Any, group: Dict[str, Any], key: str) -> Any:
    """Read a group's own value, else the one that the optimizer was built with.

    The optimizer's attribute comes last: paddle overwrites it with each group's value while it steps.
    """
    return group.get(key, optimizer._default_dict.get(key, getattr(optimizer, f"_{key}", None)))


def parameter_rate(optimizer: Any, owned: OwnedParameter) -> float:
    """Give the rate of one parameter's next update, its own multiplier included."""
    return learning_rates(optimizer)[owned.number] * _rate_multiplier(optimizer, owned.group, owned.parameter)


def _rule(optimizer: Any) -> str:
    """Name the update rule: torch's class name, or the class name of a user's own optimizer.

    Paddle's ASGD is another algorithm than torch's (SAG); over one batch it is plain SGD.
    """
    own = type(optimizer)
    if not own.__module__.startswith("paddle.optimizer."):
        return own.__name__
    kind = framework_class(optimizer)
    if kind == "ASGD":
        return "SGD" if optimizer._n == 1 else "SAG"
    return _TORCH_RULES.get(kind, kind)


def _group_hyperparameters(optimizer: Any, group: Dict[str, Any]) -> Dict[str, Scalar]:
    """Collect one group's hyper-parameters; ``lr`` is the one that the schedule starts from."""
    kind = framework_class(optimizer)
    values: Dict[str, Scalar] = {}
    for field in _FIELDS.get(kind, "").split():
        key, _, attribute = field.partition("=")
        values[key] = _plain(option(optimizer, group, attribute or key))
    values.update(_CONSTANTS.get(kind, {}))
    if kind in ("Adam", "AdamW"):
        values["amsgrad"] = bool(optimizer._amsgrad)
    if kind == "Lamb" and optimizer.always_adapt:
        values["paddle.always_adapt"] = True
    if kind == "Momentum" and float(option(optimizer, group, "rescale_grad")) != 1.0:
        values["paddle.rescale_grad"] = float(option(optimizer, group, "rescale_grad"))
    if kind != "Rprop":
        values.update(_group_decay(optimizer, group))
    start = _base_rate(optimizer)
    values["lr"] = None if start is None else start * float(group.get("learning_rate", 1.0))
    return values


def _deviations(
    optimizer: Any, group: Dict[str, Any], hyperparameters: Dict[str, Scalar], parameter: Any
) -> Dict[str, Scalar]:
    """Resolve what holds for one parameter in place of its group's values, as paddle's update finds it."""
    usual: Dict[str, Scalar] = {"weight_decay": 0.0, "l1_decay": 0.0, "coupled_weight_decay": 0.0}
    usual.update(lr_multiplier=1.0, need_clip=True)
    actual = {
        **_parameter_decay(optimizer, group, parameter),
        "lr_multiplier": _rate_multiplier(optimizer, group, parameter),
        "need_clip": getattr(parameter, "need_clip", True) is not False,
    }
    usual.update(hyperparameters)
    return {key: value for key, value in actual.items() if key not in usual or value != usual[key]}


def _clip(optimizer: Any) -> Optional[Dict[str, Scalar]]:
    """Describe gradient clipping inside the optimizer; over several groups it works on each of them alone."""
    groups = parameter_groups(optimizer)
    clips = [group.get("grad_clip", optimizer._grad_clip) for group in groups]
    clip = next((each for each in clips if each is not None), None)
    if clip is None:
        return None
    kinds = {"ClipGradByGlobalNorm": "global_norm", "ClipGradByNorm": "norm", "ClipGradByValue": "value"}
    values: Dict[str, Scalar] = {"type": kinds.get(type(clip).__name__, type(clip).__name__)}
    for key in ("clip_norm", "min", "max"):
        if hasattr(clip, key):
            values[key] = float(getattr(clip, key))
    values["scope"] = "all" if len(groups) == 1 else "group"
    if any(each is None or vars(each) != vars(clip) for each in clips):
        values["groups_clipped"] = tuple(number for number, each in enumerate(clips) if each is not None)
    return values


def _plain(value: Any) -> Scalar:
    """Reduce a hyper-parameter to a plain value: a tensor its numbers, a row of numbers a tuple, others their name."""
    if isinstance(value, paddle.Tensor):
        value = value.tolist()
    while isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, (list, tuple)) and all(isinstance(each, (int, float)) for each in value):
        return tuple(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(getattr(value, "__name__", value))


def _group_decay(optimizer: Any, group: Dict[str, Any]) -> Dict[str, Scalar]:
    """Give the decay of a group's parameter that has no setting of its own.

    Momentum moves L2 decay into its kernel, under keys of its own. Elsewhere a group's None means the optimizer's.
    """
    kind = framework_class(optimizer)
    if kind == "AdamW":
        return {"weight_decay": float(option(optimizer, group, "weight_decay"))}
    if kind == "Lamb":
        return {"weight_decay": float(option(optimizer, group, "lamb_weight_decay"))}
    if kind == "Momentum" and option(optimizer, group, "regularization_method") == "l2_decay":
        coefficient = float(option(optimizer, group, "regularization_coeff"))
        return {**_decay(optimizer.regularization), "weight_decay": coefficient}
    own = group.get("weight_decay")
    return _decay(optimizer.regularization if own is None else own)


def _parameter_decay(optimizer: Any, group: Dict[str, Any], parameter: Any) -> Dict[str, Scalar]:
    """Give the decay that one parameter's update will use.

    A regularizer on the parameter replaces the optimizer's, except under decoupled decay, where it is added to the
    gradient. The decay filters see ``parameter.name`` (``linear_0.w_0``), or under Lamb the parameter.
    """
    kind = framework_class(optimizer)
    regularizer = getattr(parameter, "regularizer", None)
    if kind in ("AdamW", "Lamb"):
        values = _group_decay(optimizer, group)
        decays = optimizer._apply_decay_param_fun if kind == "AdamW" else None
        excluded = option(optimizer, group, "exclude_from_weight_decay_fn") if kind == "Lamb" else None
        if (decays is not None and not decays(parameter.name)) or (excluded is not None and excluded(parameter)):
            values["weight_decay"] = 0.0
        added = _decay(regularizer)
        added["coupled_weight_decay"] = added.pop("weight_decay")
        return {**values, **added}
    return _group_decay(optimizer, group) if regularizer is None else _decay(regularizer)


def _decay(regularizer: Any) -> Dict[str, Scalar]:
    """Give a regularizer's coefficients: a number and L2Decay are ``weight_decay``, L1Decay is ``l1_decay``."""
    if regularizer is None:
        return {"weight_decay": 0.0}
    if isinstance(regularizer, (int, float)):
        return {"weight_decay": float(regularizer)}
    kind = type(regularizer).__name__
    if kind == "L2Decay":
        return {"weight_decay": float(regularizer._coeff)}
    if kind == "L1Decay":
        return {"weight_decay": 0.0, "l1_decay": float(regularizer._coeff)}
    return {"weight_decay": 0.0, "paddle.regularizer": kind}


def _rate_multiplier(optimizer: Any, group: Dict[str, Any], parameter: Any) -> float:
    """Give the factor between a parameter's rate and its group's, set by ParamAttr or by AdamW's ``lr_ratio``."""
    of_group = float(group.get("learning_rate", 1.0))
    own = float((getattr(parameter, "optimize_attr", None) or {}).get("learning_rate", 1.0))
    ratio = getattr(optimizer, "_lr_ratio", None)
    factor = 1.0 if own == of_group else own / (of_group or 1.0)
    return factor if ratio is None else factor * float(ratio(parameter))


def _base_rate(optimizer: Any) -> Optional[float]:
    """Give the rate that the schedule starts from; None where the schedule has no such number."""
    schedule = optimizer._learning_rate
    while isinstance(schedule, paddle.optimizer.lr.LinearWarmup):
        schedule = schedule.learning_rate
    if isinstance(schedule, paddle.optimizer.lr.PiecewiseDecay):
        return None
    return float(getattr(schedule, "base_lr", schedule))
