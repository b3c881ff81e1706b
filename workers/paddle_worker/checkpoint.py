"""Everything of a paddle training that the next step depends on, read and written exactly as paddle keeps it.

Arrays are named ``model/<tensor>`` and ``optimizer/<parameter>/<key>``. Unlike `optimizer_state`, which speaks in terms
that both frameworks share, nothing is converted here.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, Optional, Tuple

import numpy as np
import paddle

from stepalign.protocol.errors import WorkerFailure
from stepalign.workers import plain_state
from stepalign.workers.capture import Arrays, Room, own_room
from stepalign.workers.paddle_worker.model import fill_tensor
from stepalign.workers.paddle_worker.modules import walk
from stepalign.workers.paddle_worker.optimizer import OwnedParameter, owned_parameters, parameter_groups
from stepalign.workers.paddle_worker.optimizer_state import _accumulators, _create
from stepalign.workers.paddle_worker.tensors import to_numpy
from stepalign.workers.training import Training

_OPTIMIZER_PARTS = ("_learning_rate", "_opti_name_list", "_default_dict", "_param_groups", "_parameter_list")


def read_state(training: Training, room: Room = own_room) -> Tuple[Arrays, Dict[str, Any]]:
    """Copy the model's tensors and what the optimizer keeps into what ``room`` gives, and the schedule's plain attributes.

    Raises WorkerFailure that names what has no plain form.
    """
    arrays: Arrays = {f"model/{name}": to_numpy(tensor, room) for name, tensor in _all_tensors(training.model)}
    slots: Dict[str, Any] = {}
    for owned in owned_parameters(training.optimizer, training.model):
        plain = slots[owned.name] = {}
        for key, tensor in _accumulators(training.optimizer, owned).items():
            arrays[f"optimizer/{owned.name}/{key}"] = to_numpy(tensor, room)
            plain[key] = {"beside": True}
    if training.optimizer._master_weights:
        raise WorkerFailure("the paddle side's optimizer keeps master weights, which cannot be put back")
    groups = [group for group in parameter_groups(training.optimizer) if len(group) > 1]
    return arrays, {
        "slots": slots,
        "groups": [_read_group(group, number) for number, group in enumerate(groups)],
        "optimizer": _read_optimizer(training.optimizer),
        "scheduler": _read_scheduler(_scheduler(training)),
    }


def write_state(training: Training, arrays: Arrays, plain: Dict[str, Any]) -> None:
    """Put back what `read_state` gave, into tensors that stay the objects that they are."""
    for name, tensor in _all_tensors(training.model):
        fill_tensor(tensor, arrays[f"model/{name}"], name)
    for owned in owned_parameters(training.optimizer, training.model):
        _write_slots(training.optimizer, owned, arrays, plain["slots"][owned.name])
    for group, written in zip(parameter_groups(training.optimizer), plain["groups"]):
        plain_state.restore_attributes(group, written)
    plain_state.restore_attributes(vars(training.optimizer), plain["optimizer"])
    scheduler = _scheduler(training)
    if scheduler is not None:
        plain_state.restore_attributes(vars(scheduler), plain["scheduler"], _is_scheduler)


def read_random() -> Any:
    """Return the state of paddle's own generators, of the CPU and of each GPU, as their engines write it."""
    states = [state.__getstate__() for state in paddle.get_rng_state()]
    return [[device, seed, offset, bytes(engine).decode("ascii")] for device, seed, offset, engine in states]


def write_random(written: Any) -> None:
    """Put back what `read_random` gave."""
    states = []
    for present, (device, seed, offset, engine) in zip(paddle.get_rng_state(), written):
        kind: Any = type(present)
        state = kind.__new__(kind)
        state.__setstate__((device, seed, offset, list(engine.encode("ascii"))))
        states.append(state)
    paddle.set_rng_state(states)


def bare_module() -> Any:
    """Make a module with nothing in it: its attributes are those that every module has."""
    return paddle.nn.Layer()


def as_array(value: Any) -> Optional[np.ndarray]:
    """Copy a tensor that is found where no state should be; None for anything else, or what numpy cannot hold."""
    try:
        return to_numpy(value) if isinstance(value, paddle.Tensor) else None
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
        return
    _create(optimizer, owned)
    tensors = _accumulators(optimizer, owned)
    for key in plain:
        fill_tensor(tensors[key], arrays[f"optimizer/{owned.name}/{key}"], f"{owned.name}/{key}")


def _read_group(group: Dict[str, Any], number: int) -> Dict[str, Any]:
    """Encode a group's plain options; others, such as a regularizer, are what the script made them."""
    return plain_state.encode_attributes(group, without=("params",))


def _read_optimizer(optimizer: Any) -> Dict[str, Any]:
    """Encode its rate where no schedule gives it, and the plain attributes of a user's own optimizer.

    Those of paddle's own tell what has been made already (Rprop's ``_sign``), which a new one has yet to make.
    """
    own = type(optimizer).__module__.startswith("paddle.")
    plain = {} if own else plain_state.encode_attributes(vars(optimizer), without=_OPTIMIZER_PARTS)
    if isinstance(optimizer._learning_rate, float):
        plain["_learning_rate"] = optimizer._learning_rate
    return plain


def _scheduler(training: Training) -> Any:
    """Give the schedule that the training steps, or else the one that only the optimizer holds."""
    if training.scheduler is not None:
        return training.scheduler
    return training.optimizer._learning_rate if _is_scheduler(training.optimizer._learning_rate) else None


def _read_scheduler(scheduler: Any) -> Dict[str, Any]:
    """Encode the plain attributes of a schedule and of those inside it."""
    return {} if scheduler is None else plain_state.encode_attributes(vars(scheduler), _is_scheduler)


def _is_scheduler(value: Any) -> bool:
    """Tell whether a value is a schedule."""
    return isinstance(value, paddle.optimizer.lr.LRScheduler)
