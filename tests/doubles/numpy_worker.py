"""A worker without a framework: stepalign's own bootstrap, runtime and client around a model of numpy arrays.

``STEPALIGN_DOUBLE`` says what it does wrong, see `misbehaviour`. Beside phases, a point may be the name of a message that
is about to be sent, ``after`` and its name, or ``on`` and the name of one that came.
"""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Dict, List, Tuple

import msgpack
import numpy as np
from misbehaviour import arm, fault, misbehave, start_clock

from stepalign.protocol import messages
from stepalign.protocol.framing import encode
from stepalign.protocol.specs import GroupSpec, ModuleSpec, OptimizerSpec, TensorSpec
from stepalign.workers import bootstrap, runtime
from stepalign.workers.capture import StepOutcome
from stepalign.workers.client import Client


def do(action: str) -> None:
    """Misbehave, also in the ways that only the double can."""
    if action == "leave":
        CLIENT[0].close()
        os._exit(9)
    else:
        misbehave(action)


def changed(tensors: Any, array: Any) -> Any:
    """Give the same tensors but for one of each kind: gone, or another array."""
    return {
        kind: {name: array if name == "fc.bias" else held for name, held in named.items() if array is not None or name != "fc.bias"}
        for kind, named in tensors.items()
    }


class DoubleClient(Client):
    """The client, but for what it is asked to send otherwise."""

    def send(self, message: messages.Message) -> None:
        name, step = type(message).__name__, getattr(message, "step", None)
        action = fault(name, step)
        frames = encode(message)
        if action == "twice":
            super().send(message)
        elif action == "forever":
            while True:
                super().send(message)
        elif action == "wrong_version":
            frames[0] = msgpack.packb([99, *msgpack.unpackb(frames[0])[1:]])
            self.send_raw(frames)
            return
        elif action == "garbage":
            self.send_raw([b"\xdbgarbage", b"more"])
            return
        elif action == "empty":
            self.send_raw([b""])
            return
        elif action == "gigabytes":
            header = msgpack.unpackb(frames[0])
            header[2]["loss"] = [0, 0, "float64", [1 << 40, 1 << 40]]
            self.send_raw([msgpack.packb(header), *frames[1:]])
            return
        elif action == "beyond_memory":
            header = msgpack.unpackb(frames[0])
            header[2]["tensors"]["parameter"]["fc.bias"] = [-1, 1 << 40, "float64", [3]]
            self.send_raw([msgpack.packb(header), *frames[1:]])
            return
        elif action == "gigabyte_header":
            self.send_raw([bytes(1 << 30)])
            return
        elif action == "one_missing":
            message = replace(message, tensors=changed(message.tensors, None))
        elif action == "other_shape":
            message = replace(message, tensors=changed(message.tensors, np.zeros((3, 3))))
        elif action == "wrong_step":
            message = replace(message, step=step + 5)
        elif action == "other_message":
            message = messages.Finished()
        elif action == "no_arrays":
            message = replace(message, tensors={})
        elif action == "other_framework":
            message = replace(message, framework="paddle")
        elif action == "other_pid":
            message = replace(message, pid=1)
        elif action == "lost_frame":
            self.send_raw(frames[:-1])
            return
        elif action == "wrong_framework":
            message = replace(message, facts=replace(message.facts, framework="paddle"))
        elif action == "holds_other":
            message = replace(message, facts=replace(message.facts, other_frameworks_loaded=("paddle",)))
        elif action == "silence":
            return
        elif action == "garbage_in_journal":
            os.write(JOURNAL, b"\xff" * 64)
        elif action == "other_message_in_journal":
            self._journal.append(self._sent, encode(messages.Finished()))
        elif action == "header_in_journal":
            self._journal.append(self._sent, [b"\xc1"])
        else:
            do(action)
        super().send(message)
        after = fault(f"after{name}", step)
        if after == "garbage":
            self.send_raw([b"\xdbgarbage"])
            do("leave")
        do(after)

    def send_raw(self, frames: List[bytes]) -> None:
        """Send frames that are no message; they count as one, so that what is written down afterwards is read after them."""
        self._socket.send_multipart(frames)
        self._sent += 1

    def receive(self) -> messages.Message:
        message = super().receive()
        name = type(message).__name__
        do(fault(f"on{name}", getattr(message, "step", None)))
        return message


SIDE = os.environ.get("STEPALIGN_FRAMEWORK", "torch")


def read_parameters(model: Any, room: Any = None) -> Dict[str, np.ndarray]:
    """Give the double's arrays as its side would: torch stores [out, in], paddle [in, out]."""
    return {name: np.array(array.T if SIDE == "torch" else array, order="C") for name, array in model.items()}


def write_tensors(model: Any, arrays: Any) -> None:
    for name, array in arrays.items():
        model[name] = np.array(array.T if SIDE == "torch" else array, order="C")


def describe_tensors(model: Any) -> Tuple[TensorSpec, ...]:
    layout = "out_in" if SIDE == "torch" else "in_out"
    return tuple(
        TensorSpec(
            name,
            "parameter",
            array.shape,
            array.dtype.name,
            True,
            "fc",
            "Linear",
            name[3:],
            layout if array.ndim == 2 else "",
            (),
            name,
        )
        for name, array in read_parameters(model).items()
    )


def train_step(training: Any, batch: Any, capture: Any, enter: Any) -> StepOutcome:
    enter("forward")
    loss, gradients = training.loss(training.model, batch)
    enter("update")
    (rate,) = training.optimizer["lr"]
    for name, gradient in gradients.items():
        training.model[name] = training.model[name] - rate * gradient
    enter("collect")
    known = {
        "gradient": lambda: read_parameters(gradients),
        "used_gradient": dict,
        "optimizer_state": dict,
        "parameter": lambda: read_parameters(training.model),
        "buffer": dict,
        "activation": dict,
    }
    tensors = {kind: known[kind]() for kind in capture.kinds}
    return StepOutcome([rate], np.asarray(loss), tensors)


TWIN = SimpleNamespace(
    prepare=lambda settings: None,
    defer_compiler=lambda: None,
    import_deferred=lambda: None,
    version=lambda: np.__version__,
    read_settings=lambda: {"threads": 1},
    check_training=lambda training: None,
    cast_model=lambda model, dtype: model.update({name: array.astype(dtype) for name, array in model.items()}),
    set_mode=lambda model, mode: None,
    describe_tensors=describe_tensors,
    describe_modules=lambda model: (
        ModuleSpec("", "Model", "Model", False),
        ModuleSpec("fc", "Linear", "Linear", False),
    ),
    describe_optimizer=lambda optimizer, model: OptimizerSpec(
        "SGD", "SGD", (GroupSpec(tuple(model), {"lr": optimizer["lr"][0]}),)
    ),
    describe_scheduler=lambda scheduler: None,
    read_parameters=read_parameters,
    read_buffers=lambda model, room: {},
    write_tensors=write_tensors,
    walk=lambda model: iter(()),
    bare_module=SimpleNamespace,
    as_array=lambda value: None,
    read_state=lambda training: (read_parameters(training.model), {}),
    write_state=lambda training, arrays, plain: write_tensors(training.model, arrays),
    read_random=lambda: None,
    write_random=lambda written: None,
    write_optimizer_state=lambda optimizer, model, arrays: None,
    copy_tensor=np.copy,
    from_numpy=np.array,
    train_step=train_step,
    read_rates=lambda optimizer, scheduler, steps, losses: [optimizer["lr"]] * steps,
)
CLIENT = []
JOURNAL = int(os.environ.get("STEPALIGN_JOURNAL", "-1"))


def make_client(*arguments: Any) -> Client:
    start_clock()
    CLIENT.append(DoubleClient(*arguments))
    return CLIENT[0]


def import_twin(framework: str) -> Any:
    return TWIN


if __name__ == "__main__":
    import stepalign.workers.client

    arm()
    stepalign.workers.client.Client = make_client  # type: ignore[assignment,misc]
    runtime.import_twin = import_twin
    misbehave(fault("start"))
    bootstrap.main()
