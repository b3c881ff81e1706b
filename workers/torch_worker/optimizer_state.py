"""A torch optimizer's state under common slot names, ``"<parameter>/<slot>"``, read and written.

``step`` is a 0-d int64 count of finished updates; every other slot has its tensor's shape and dtype. Writing makes the
next update what it would be had the optimizer come that way, before the first step too; a parameter whose state is not
given starts afresh. Slots of a rule that paddle lacks keep torch's names.
"""

from __future__ import annotations

from typing import Any, Dict, Optional

import numpy as np
import torch

from stepalign.protocol.errors import WorkerFailure
from stepalign.workers.capture import Arrays, Room, own_room
from stepalign.workers.torch_worker.model import fill_tensor
from stepalign.workers.torch_worker.optimizer import OwnedParameter, framework_class, option, owned_parameters
from stepalign.workers.torch_worker.tensors import from_numpy, to_numpy

_ADAM = {"exp_avg": "moment1", "exp_avg_sq": "moment2", "step": "step"}
_AMSGRAD = {**_ADAM, "max_exp_avg_sq": "moment2_max"}
_SLOTS: Dict[str, Dict[str, str]] = {
    "SGD": {"momentum_buffer": "velocity"},
    "Adam": _AMSGRAD,
    "AdamW": _AMSGRAD,
    "SparseAdam": _ADAM,
    "Adamax": {"exp_avg": "moment1", "exp_inf": "inf_norm", "step": "step"},
    "NAdam": {**_ADAM, "mu_product": "mu_product"},
    "RAdam": _ADAM,
    "Adagrad": {"sum": "sum_of_squares", "step": "step"},
    "Adadelta": {"square_avg": "mean_square", "acc_delta": "mean_update_square"},
    "RMSprop": {"square_avg": "mean_square", "grad_avg": "mean_gradient", "momentum_buffer": "velocity"},
    "Rprop": {"prev": "prev", "step_size": "step_size"},
    "ASGD": {"eta": "eta", "mu": "mu", "ax": "ax", "step": "step"},
}
_SCALARS = ("mu_product", "eta", "mu")
_OPTIONAL = {"max_exp_avg_sq": "amsgrad", "grad_avg": "centered", "momentum_buffer": "momentum"}


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
        raise WorkerFailure(f"state for {sorted(given)[0]!r} came, which the torch side's optimizer does not update")


def finished_updates(optimizer: Any, owned: OwnedParameter) -> Optional[int]:
    """Count the updates that a parameter has had; None where the optimizer does not count."""
    state = optimizer.state.get(owned.parameter, {})
    if not state:
        return 0
    return round(float(state["step"])) if "step" in state else None


def _read_slots(optimizer: Any, owned: OwnedParameter, room: Room) -> Arrays:
    """Copy one parameter's slots."""
    state = optimizer.state[owned.parameter]
    names = _SLOTS.get(framework_class(optimizer)) or {key: key for key in state}
    slots: Arrays = {}
    for key, slot in names.items():
        value = state.get(key)
        if slot == "step" and value is not None:
            slots[slot] = np.array(finished_updates(optimizer, owned), np.int64)
        elif isinstance(value, torch.Tensor):
            slots[slot] = to_numpy(value, room)
        elif isinstance(value, (int, float)):
            slots[slot] = np.array(value)
    if framework_class(optimizer) == "Adagrad" and not option(optimizer, owned.group, "lr_decay"):
        slots.pop("step", None)  # it decides nothing, and paddle has none
    return slots


def _write_slots(optimizer: Any, owned: OwnedParameter, slots: Arrays) -> None:
    """Write one parameter's slots; one that is not given keeps its value, or gets the one that it starts with."""
    kind = framework_class(optimizer)
    state = optimizer.state[owned.parameter]
    names = _SLOTS.get(kind) or {slot: slot for slot in slots}
    unknown = sorted(set(slots) - set(names.values()))
    if unknown:
        raise WorkerFailure(
            f"state {owned.name}/{unknown[0]} came, but torch's {type(optimizer).__name__} keeps "
            f"{sorted(names.values())}"
        )
    for key, slot in names.items():
        if slot == "step":
            if slot in slots:
                _write_step(optimizer, owned, slots[slot])
        elif slot in slots:
            if state.get(key) is None:
                state[key] = _initial(owned, key, slots[slot])
            state[key] = _filled(state[key], slots[slot], f"{owned.name}/{slot}")
        elif key not in state and (key not in _OPTIONAL or option(optimizer, owned.group, _OPTIONAL[key])):
            state[key] = _initial(owned, key, None)
    if kind in _SLOTS and kind != "SGD" and "step" not in slots and not finished_updates(optimizer, owned):
        _write_step(optimizer, owned, None)


def _write_step(optimizer: Any, owned: OwnedParameter, step: Optional[np.ndarray]) -> None:
    """Set the count of finished updates, in the form that the optimizer keeps it in; one where the count is unknown."""
    state = optimizer.state[owned.parameter]
    count = 1 if step is None else int(step)
    if isinstance(state.get("step"), torch.Tensor):
        state["step"].fill_(count)
    elif framework_class(optimizer) in ("", "SparseAdam"):
        state["step"] = count
    else:
        dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        beside = owned.group.get("capturable") or owned.group.get("fused")
        state["step"] = torch.tensor(count, dtype=dtype, device=owned.parameter.device if beside else "cpu")


def _initial(owned: OwnedParameter, key: str, array: Optional[np.ndarray]) -> Any:
    """Make a slot as the optimizer does: like the parameter or 0-d; of an unknown optimizer, like the array."""
    if key in _SCALARS:
        return torch.ones((), dtype=torch.get_default_dtype(), device="cpu")
    if array is None or array.shape == tuple(owned.parameter.shape):
        return torch.zeros_like(owned.parameter, requires_grad=False)
    return from_numpy(array).to(owned.parameter.device) if array.ndim else array.item()


def _filled(value: Any, array: np.ndarray, name: str) -> Any:
    """Overwrite a slot's tensor and return it; a slot that is a plain number is replaced."""
    if not isinstance(value, torch.Tensor):
        return array.item()
    fill_tensor(value, array, name)
    return value


def _forget(optimizer: Any, owned: OwnedParameter) -> None:
    """Let a parameter start afresh."""
    state = optimizer.state.pop(owned.parameter, None)
    if state and framework_class(optimizer) == "Adagrad":  # which makes its state when it is built
        state["step"].zero_()
        state["sum"].fill_(owned.group.get("initial_accumulator_value", 0.0))
        optimizer.state[owned.parameter] = state
