"""A paddle optimizer's state under common slot names, ``"<parameter>/<slot>"``, read and written.

``step`` is a 0-d int64 count of finished updates; every other slot has its tensor's shape and dtype. Writing makes the
next update what it would be had the optimizer come that way, before the first step too; a parameter whose state is not
given starts afresh. Slots of a rule that torch lacks keep paddle's names.

Paddle does not count: it keeps powers of the betas, from which the count is derived and which are derived from it.
RMSProp's momentum buffer has the rate inside, and is divided by the present one to mean what torch's does.
"""

from __future__ import annotations

import math
from typing import Any, Dict, Optional

import numpy as np
import paddle

from stepalign.protocol.errors import WorkerFailure
from stepalign.workers.capture import Arrays, Room, own_room
from stepalign.workers.paddle_worker.model import fill_tensor
from stepalign.workers.paddle_worker.optimizer import (
    OwnedParameter,
    framework_class,
    option,
    owned_parameters,
    parameter_rate,
)
from stepalign.workers.paddle_worker.tensors import to_numpy

_ADAM = {"moment1": "moment1", "moment2": "moment2"}
_AMSGRAD = {**_ADAM, "moment2_max": "moment2_max"}
_SLOTS: Dict[str, Dict[str, str]] = {
    "Momentum": {"velocity": "velocity"},
    "Adam": _AMSGRAD,
    "AdamW": _AMSGRAD,
    "Lamb": _ADAM,
    "Adamax": {"moment": "moment1", "inf_norm": "inf_norm"},
    "NAdam": _ADAM,
    "RAdam": _ADAM,
    "Adagrad": {"moment": "sum_of_squares"},
    "Adadelta": {"_avg_squared_grad": "mean_square", "_avg_squared_update": "mean_update_square"},
    "RMSProp": {"mean_square": "mean_square", "mean_grad": "mean_gradient", "momentum": "velocity"},
    "Rprop": {"prevs": "prev", "learning_rates": "step_size"},
    "ASGD": {},
}
_OPTIONAL = {"moment2_max": "amsgrad", "mean_grad": "centered", "momentum": "momentum"}
_POWERS = {
    "beta1_pow_acc": ("beta1", 1),
    "beta1_pow": ("beta1", 0),
    "beta2_pow_acc": ("beta2", 1),
    "beta2_pow": ("beta2", 0),
}
"""Accumulators that hold a beta to the power of the finished updates plus a number."""
_FLOAT32_BETAS = ("NAdam", "RAdam", "Lamb")
"""Rules whose kernels multiply by a beta rounded to float32, for float64 parameters too."""


def read_optimizer_state(optimizer: Any, model: Any, room: Room = own_room) -> Arrays:
    """Copy what the optimizer keeps for each parameter that it has updated."""
    state: Arrays = {}
    for owned in owned_parameters(optimizer, model):
        if finished_updates(optimizer, owned) != 0:
            for slot, array in _read_slots(optimizer, owned, room).items():
                state[f"{owned.name}/{slot}"] = array
    return state


def write_optimizer_state(optimizer: Any, model: Any, arrays: Arrays) -> None:
    """Replace the optimizer's state; raises WorkerFailure that names a slot which this optimizer does not have."""
    given: Dict[str, Arrays] = {}
    for name, array in arrays.items():
        parameter, _, slot = name.rpartition("/")
        given.setdefault(parameter, {})[slot] = array
    for owned in owned_parameters(optimizer, model):
        slots = given.pop(owned.name, {})
        if slots:
            _write_slots(optimizer, owned, slots)
        else:
            _forget(optimizer, owned)
    if given:
        raise WorkerFailure(f"state for {sorted(given)[0]!r} came, which the paddle side's optimizer does not update")


def finished_updates(optimizer: Any, owned: OwnedParameter) -> Optional[int]:
    """Count the updates that a parameter has had; None where the optimizer does not count.

    A power of beta1 tells until it underflows, after some 650 updates; then beta2's takes over.
    """
    state = _accumulators(optimizer, owned)
    if not state:
        return 0
    for key, (name, ahead) in _POWERS.items():
        if key in state:
            power = float(state[key].numpy().flat[0])
            beta = _beta(optimizer, owned, name, state[key])
            if power > 1e-30 and 0.0 < beta < 1.0:
                return round(math.log(power) / math.log(beta)) - ahead
    return None


def _read_slots(optimizer: Any, owned: OwnedParameter, room: Room) -> Arrays:
    """Copy one parameter's slots."""
    state = _accumulators(optimizer, owned)
    names = _names(optimizer, state)
    slots = {slot: to_numpy(state[key], room) for key, slot in names.items() if key in state}
    for key, switch in _OPTIONAL.items():
        if key in names and not option(optimizer, owned.group, switch):
            slots.pop(names[key], None)
    if framework_class(optimizer) == "RMSProp" and "velocity" in slots:
        slots["velocity"] = slots["velocity"] / _present_rate(optimizer, owned, slots["velocity"])
    if "mu_product" in state:
        slots["mu_product"] = to_numpy(state["mu_product"]).flatten()[:1].reshape(())
    finished = finished_updates(optimizer, owned)
    if finished is not None:
        slots["step"] = np.array(finished, np.int64)
    return slots


def _write_slots(optimizer: Any, owned: OwnedParameter, slots: Arrays) -> None:
    """Write one parameter's slots; one that is not given keeps its value, or gets the one that it starts with."""
    _create(optimizer, owned)
    state = _accumulators(optimizer, owned)
    names = _names(optimizer, state)
    counted = {"step"} if set(state) & set(_POWERS) else set()
    unknown = sorted(set(slots) - set(names.values()) - counted - ({"mu_product"} & set(state)))
    if unknown:
        raise WorkerFailure(
            f"state {owned.name}/{unknown[0]} came, but paddle's {type(optimizer).__name__} keeps "
            f"{sorted({*names.values(), *counted})}"
        )
    for key, slot in names.items():
        if slot in slots and key in state:
            array = slots[slot]
            if framework_class(optimizer) == "RMSProp" and slot == "velocity":
                array = array * _present_rate(optimizer, owned, array)
            fill_tensor(state[key], array, f"{owned.name}/{slot}")
    if "mu_product" in slots:
        _fill_all(state["mu_product"], float(slots["mu_product"]))
    if counted and "step" in slots:
        _write_step(optimizer, owned, slots["step"])


def _write_step(optimizer: Any, owned: OwnedParameter, step: Optional[np.ndarray]) -> None:
    """Set the count of finished updates, in the form that the optimizer keeps it in; one where the count is unknown.

    RAdam's ``rho`` after n updates is n b^n / (1 - b^n) with b beta2; NAdam's decay base is 0.96 (measured, 3.3.1).
    """
    state = _accumulators(optimizer, owned)
    count = 1 if step is None else int(step)
    for key, (name, ahead) in _POWERS.items():
        if key in state:
            _fill_all(state[key], _beta(optimizer, owned, name, state[key]) ** (count + ahead))
    if "momentum_decay_pow" in state:
        _fill_all(state["momentum_decay_pow"], 0.96**count)
    if "rho" in state:
        power = _beta(optimizer, owned, "beta2", state["rho"]) ** count
        _fill_all(state["rho"], count * power / (1.0 - power) if count else 1.0)


def _forget(optimizer: Any, owned: OwnedParameter) -> None:
    """Let a parameter start afresh, in the tensors that it has: merged kernels hold on to them."""
    old = _accumulators(optimizer, owned)
    if old:
        holder = {key: held for key, held in optimizer._accumulators.items() if _key(optimizer, owned) in held}
        kept = {key: held.pop(_key(optimizer, owned)) for key, held in holder.items()}
        optimizer._already_create_accumulator.discard(owned.parameter.name)
        _create(optimizer, owned)
        for key, tensor in kept.items():
            tensor.set_value(holder[key][_key(optimizer, owned)].numpy())
            holder[key][_key(optimizer, owned)] = tensor


def _key(optimizer: Any, owned: OwnedParameter) -> str:
    """Give the name under which accumulators are kept: the parameter's, or that of its float32 master copy."""
    return str(getattr(optimizer, "_master_weights", {}).get(owned.parameter.name, owned.parameter).name)


def _accumulators(optimizer: Any, owned: OwnedParameter) -> Dict[str, Any]:
    """Give the tensors that the optimizer keeps for one parameter, by paddle's slot names."""
    prefix = f"{optimizer._name}_" if optimizer._name else ""
    key = _key(optimizer, owned)
    return {name[len(prefix) :]: held[key] for name, held in optimizer._accumulators.items() if key in held}


def _names(optimizer: Any, state: Dict[str, Any]) -> Dict[str, str]:
    """Map paddle's slot names to the common ones; of a rule that torch lacks, to themselves."""
    kind = framework_class(optimizer)
    if kind in _SLOTS and not (kind == "ASGD" and optimizer._n > 1):
        return _SLOTS[kind]
    return {key: key for key in state if key not in _POWERS}


def _create(optimizer: Any, owned: OwnedParameter) -> None:
    """Make a parameter's accumulators as its first update would."""
    block = paddle.base.framework.default_main_program().global_block()
    grouped = isinstance(optimizer._param_groups[0], dict)
    with paddle.no_grad():
        optimizer._create_accumulators(
            block, {**owned.group, "params": [owned.parameter]} if grouped else [owned.parameter]
        )


def _beta(optimizer: Any, owned: OwnedParameter, name: str, power: Any) -> float:
    """Give a beta as the kernel multiplies by it."""
    beta = float(option(optimizer, owned.group, name))
    single = power.dtype == paddle.float32 or framework_class(optimizer) in _FLOAT32_BETAS
    return float(np.float32(beta)) if single else beta


def _present_rate(optimizer: Any, owned: OwnedParameter, array: np.ndarray) -> Any:
    """Give a parameter's present rate in an array's dtype; one where it is zero, as nothing can be divided out."""
    return array.dtype.type(parameter_rate(optimizer, owned) or 1.0)


def _fill_all(tensor: Any, value: float) -> None:
    """Set every element of a tensor to one value."""
    tensor.set_value(np.full(tuple(tensor.shape), value, to_numpy(tensor).dtype))
