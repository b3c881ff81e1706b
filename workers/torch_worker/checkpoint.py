"""Everything of a torch training that the next step depends on, read and written exactly as torch keeps it.

Arrays are named ``model/<tensor>`` and ``optimizer/<parameter>/<key>``. Unlike `optimizer_state`, which speaks in terms
that both frameworks share, nothing is converted here.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, Optional, Tuple

import numpy as np
import torch

from stepalign.protocol.errors import WorkerFailure
from stepalign.workers import plain_state
from stepalign.workers.capture import Arrays, Room, own_room
from stepalign.workers.torch_worker.model import fill_tensor
from stepalign.workers.torch_worker.modules import walk
from stepalign.workers.torch_worker.optimizer import OwnedParameter, owned_parameters
from stepalign.workers.torch_worker.tensors import from_numpy, to_numpy
from stepalign.workers.training import Training

_OPTIMIZER_PARTS = ("state", "param_groups", "defaults")


def read_state(training: Training, room: Room = own_room) -> Tuple[Arrays, Dict[str, Any]]:
    """Copy the model's tensors and what the optimizer keeps into what ``room`` gives, and the schedule's plain attributes.

    Raises WorkerFailure that names what has no plain form.
    """
    arrays: Arrays = {f"model/{name}": to_numpy(tensor, room) for name, tensor in _all_tensors(training.model)}
    slots: Dict[str, Any] = {}
    for owned in owned_parameters(training.optimizer, training.model):
        plain = slots[owned.name] = {}
        for key, value in training.optimizer.state.get(owned.parameter, {}).items():
            if isinstance(value, torch.Tensor):
                arrays[f"optimizer/{owned.name}/{key}"] = to_numpy(value, room)
                plain[key] = {"beside": value.device == owned.parameter.device}
            else:
                plain[key] = {"value": _encoded(f"optimizer state {owned.name}/{key}", value)}
    return arrays, {
        "slots": slots,
        "groups": [_read_group(group, number) for number, group in enumerate(training.optimizer.param_groups)],
        "optimizer": plain_state.encode_attributes(vars(training.optimizer), without=_OPTIMIZER_PARTS),
        "scheduler": _read_scheduler(training.scheduler),
    }


def write_state(training: Training, arrays: Arrays, plain: Dict[str, Any]) -> None:
    """Put back what `read_state` gave, into tensors that stay the objects that they are."""
    for name, tensor in _all_tensors(training.model):
        fill_tensor(tensor, arrays[f"model/{name}"], name)
    for owned in owned_parameters(training.optimizer, training.model):
        _write_slots(training.optimizer, owned, arrays, plain["slots"][owned.name])
    for group, written in zip(training.optimizer.param_groups, plain["groups"]):
        plain_state.restore_attributes(group, written)
    plain_state.restore_attributes(vars(training.optimizer), plain["optimizer"])
    if training.scheduler is not None:
        plain_state.restore_attributes(vars(training.scheduler), plain["scheduler"], _is_scheduler)


def read_random() -> Any:
    """Return the state of torch's own generators: of the CPU, and of each GPU in use."""
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())]
    return [plain_state.encode(np.array(state.cpu().numpy())) for state in states]


def write_random(written: Any) -> None:
    """Put back what `read_random` gave."""
    states = [torch.from_numpy(plain_state.decode(item)) for item in written]
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])


def bare_module() -> Any:
    """Make a module with nothing in it: its attributes are those that every module has."""
    return torch.nn.Module()


def as_array(value: Any) -> Optional[np.ndarray]:
    """Copy a tensor that is found where no state should be; None for anything else, or what numpy cannot hold."""
    try:
        return to_numpy(value) if isinstance(value, torch.Tensor) else None
    except WorkerFailure:
        return None


def _all_tensors(model: Any) -> Iterator[Tuple[str, Any]]:
    """Yield every parameter and buffer once, those that are not saved with the model too."""
    seen = set()
    for path, module in walk(model):
        for leaf, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield (f"{path}.{leaf}" if path else leaf), tensor


def _write_slots(optimizer: Any, owned: OwnedParameter, arrays: Arrays, plain: Dict[str, Any]) -> None:
    """Give one parameter the state that was read of it."""
    if not plain:
        optimizer.state.pop(owned.parameter, None)
        return
    state = optimizer.state[owned.parameter]
    for key, written in plain.items():
        if "value" in written:
            state[key] = plain_state.decode(written["value"])
            continue
        array = arrays[f"optimizer/{owned.name}/{key}"]
        if not isinstance(state.get(key), torch.Tensor):
            like = owned.parameter.dtype == from_numpy(array).dtype and array.shape == tuple(owned.parameter.shape)
            device = owned.parameter.device if written["beside"] else "cpu"
            state[key] = torch.zeros_like(owned.parameter, requires_grad=False) if like else from_numpy(array).to(device)
        fill_tensor(state[key], array, f"{owned.name}/{key}")


def _read_group(group: Dict[str, Any], number: int) -> Dict[str, Any]:
    """Encode a group's options."""
    return {
        key: _encoded(f"{key} of the optimizer's group {number}", value)
        for key, value in group.items()
        if key != "params"
    }


def _read_scheduler(scheduler: Any) -> Dict[str, Any]:
    """Encode the plain attributes of a schedule and of those inside it."""
    return {} if scheduler is None else plain_state.encode_attributes(vars(scheduler), _is_scheduler)


def _is_scheduler(value: Any) -> bool:
    """Tell whether a value is a schedule."""
    schedules = (torch.optim.lr_scheduler.LRScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    return isinstance(value, schedules)


def _encoded(what: str, value: Any) -> Any:
    """Encode a value; raises WorkerFailure that names it where it has no plain form."""
    try:
        return plain_state.encode(value)
    except plain_state.NotPlainError as error:
        raise WorkerFailure(f"{what} of the torch side has no plain form ({error})") from None
