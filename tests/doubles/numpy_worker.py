"""A worker without a framework: stepalign's own bootstrap, runtime and client around a model of numpy arrays.

``STEPALIGN_DOUBLE`` says what it does wrong: ``POINT[:STEP]=ACTION``, several separated by commas. A point is a phase
(start, import, build, weights, forward, ...) or the name of a message about to be sent, or ``after`` and a message's
name.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Dict, Optional, Tuple

import msgpack
import numpy as np

from stepalign.protocol import messages
from stepalign.protocol.errors import CaseError
from stepalign.protocol.framing import encode
from stepalign.protocol.specs import GroupSpec, ModuleSpec, OptimizerSpec, TensorSpec
from stepalign.workers import bootstrap, runtime
from stepalign.workers.capture import StepOutcome
from stepalign.workers.client import Client


def parse(text: str) -> Dict[Tuple[str, Optional[int]], str]:
    faults = {}
    for part in filter(None, text.split(",")):
        point, _, action = part.partition("=")
        name, _, step = point.partition(":")
        faults[name, int(step) if step else None] = action
    return faults


FAULTS = parse(os.environ.get("STEPALIGN_DOUBLE", ""))
NOTE = os.environ.get("STEPALIGN_DOUBLE_NOTE", "")


def fault(point: str, step: Optional[int] = None) -> str:
    """Return the action for a point, if any; each happens once."""
    return FAULTS.pop((point, step), "") or FAULTS.pop((point, None), "")


def note(*pids: int) -> None:
    with open(NOTE + ".part", "w", encoding="ascii") as file:
        file.write(" ".join(str(pid) for pid in (os.getpid(), *pids)))
    os.replace(NOTE + ".part", NOTE)


def misbehave(action: str) -> None:
    """Do what can be done at any point."""
    if action.startswith("SIG"):
        note()
        os.kill(os.getpid(), getattr(signal, action))
        time.sleep(1)
    elif action == "segfault":
        ctypes.string_at(0)
    elif action == "abort":
        os.abort()
    elif action == "os._exit":
        os._exit(9)
    elif action == "leave":
        CLIENT[0].close()
        os._exit(9)
    elif action == "sys.exit":
        sys.exit(3)
    elif action == "raise":
        raise ValueError("this double was asked to raise")
    elif action == "raise_case":
        raise CaseError("this double was asked to say that the case is wrong")
    elif action == "raise_surrogate":
        raise OSError("no file \udcff\udcfe here")
    elif action == "raise_much":
        raise ValueError("x" * (100 << 20))
    elif action == "raise_base":
        raise BaseException("beyond Exception")  # noqa: TRY002
    elif action == "hang":
        note()
        hang_in_python()
    elif action == "hang_native":
        note()
        ctypes.PyDLL(None).sleep(1000)
    elif action == "hang_busy":
        note()
        while True:
            pass
    elif action == "hang_deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note()
        hang_in_python()
    elif action == "fork":
        fork_and_hang()
    elif action == "fork_and_go":
        note(fork_sleeper())
    elif action == "daemon":
        note(fork_daemon())
        ctypes.PyDLL(None).sleep(1000)
    elif action == "daemon_and_go":
        note(fork_daemon())
    elif action == "daemon_and_die":
        note(fork_daemon())
        os.kill(os.getpid(), signal.SIGSEGV)
    elif action == "orphans":
        for _ in range(20):
            if not os.fork():
                os.fork()
                os._exit(0)
            os.wait()
        note()
    elif action == "tidy_child":
        fork_tidy_child()
    elif action == "close_lifeline":
        os.close(int(os.environ["STEPALIGN_LIFELINE"]))
        misbehave("hang_busy")
    elif action == "close_files":
        note()
        os.closerange(3, 256)
        hang_in_python()
    elif action == "flood":
        block = b"all work and no play\n" * 4096
        for _ in range(64):
            os.write(1, block)
            os.write(2, block)
    elif action == "chdir":
        os.chdir("/")
    elif action:
        raise AssertionError(f"the double knows no action {action}")


def watch_the_clock() -> None:
    hang_in_python()


def fork_daemon() -> int:
    """Start what leaves everything behind: parent, group, session, environment, descriptors, working directory."""
    reading, writing = os.pipe()
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(writing, b"%d" % os.getpid())
        os.chdir("/")
        os.closerange(0, 256)
        os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", DEAF], {})
    os.wait()
    return int(os.read(reading, 32))


DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1000)"


def fork_tidy_child() -> None:
    """Start a child that ends, after some tidying, when this process does; SIGTERM would keep it from that."""
    reading, writing = os.pipe()
    if not os.fork():
        os.close(writing)
        os.read(reading, 1)
        time.sleep(0.05)
        with open(NOTE + ".tidied", "w", encoding="ascii"):
            os._exit(0)


def hang_in_python() -> None:
    while True:
        time.sleep(1000)


def fork_sleeper() -> int:
    pid = os.fork()
    if not pid:
        hang_in_python()
    return pid


def fork_and_hang() -> None:
    child = fork_sleeper()
    note(child)
    ctypes.PyDLL(None).sleep(1000)


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
            self._socket.send_multipart(frames)
            return
        elif action == "garbage":
            self._socket.send_multipart([b"\xc1\x00garbage", b"more"])
            return
        elif action == "empty":
            self._socket.send(b"")
            return
        elif action == "gigabytes":
            header = msgpack.unpackb(frames[0])
            header[2]["loss"] = [0, 0, "float64", [1 << 40, 1 << 40]]
            self._socket.send_multipart([msgpack.packb(header), *frames[1:]])
            return
        elif action == "beyond_memory":
            header = msgpack.unpackb(frames[0])
            header[2]["tensors"]["parameter"]["fc.bias"] = [-1, 1 << 40, "float64", [3]]
            self._socket.send_multipart([msgpack.packb(header), *frames[1:]])
            return
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
            self._socket.send_multipart(frames[:-1])
            return
        elif action == "wrong_framework":
            message = replace(message, facts=replace(message.facts, framework="paddle"))
        elif action == "holds_other":
            message = replace(message, facts=replace(message.facts, other_frameworks_loaded=("paddle",)))
        elif action == "silence":
            return
        else:
            misbehave(action)
        super().send(message)
        after = fault(f"after{name}", step)
        if after == "garbage":
            self._socket.send_multipart([b"\xc1\x00garbage"])
            misbehave("leave")
        misbehave(after)

    def receive(self) -> messages.Message:
        message = super().receive()
        name = type(message).__name__
        misbehave(fault(f"on{name}", getattr(message, "step", None)))
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
    misbehave(fault("forward", CLIENT[0].status.step))
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
    prepare=lambda settings: misbehave(fault("build")),
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
    write_optimizer_state=lambda optimizer, model, arrays: None,
    from_numpy=np.array,
    train_step=train_step,
    read_rates=lambda optimizer, scheduler, steps, losses: [optimizer["lr"]] * steps,
)
CLIENT = []


def make_client(*arguments: Any) -> Client:
    threading.Thread(target=watch_the_clock, daemon=True).start()
    CLIENT.append(DoubleClient(*arguments))
    return CLIENT[0]


def import_twin(framework: str) -> Any:
    misbehave(fault("import"))
    return TWIN


if __name__ == "__main__":
    import stepalign.workers.client

    stepalign.workers.client.Client = make_client  # type: ignore[assignment,misc]
    runtime.import_twin = import_twin
    misbehave(fault("start"))
    bootstrap.main()
