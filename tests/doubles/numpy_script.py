"""A training script that owns its loop, without a framework. Its first argument says what it does otherwise."""

from __future__ import annotations

import multiprocessing
import os
import sys
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List

import numpy as np

from stepalign.protocol.specs import GroupSpec, ModuleSpec, OptimizerSpec, TensorSpec
from stepalign.workers import attach

Arrays = Dict[str, np.ndarray]
SIDE = os.environ.get("STEPALIGN_FRAMEWORK", "torch")
FAULT = (sys.argv[1:] or [""])[0]
WATCHES: List[Any] = []


class Model:
    """A linear layer, held as [in, out]."""

    def __init__(self) -> None:
        random = np.random.default_rng(3)
        self.weight = {"fc.weight": random.normal(size=(2, 3)), "fc.bias": random.normal(size=3)}
        self.gradient: Arrays = {}


class Optimizer:
    """Plain gradient descent."""

    def __init__(self, model: Model) -> None:
        self.model, self.rate = model, 0.125

    def step(self) -> None:
        for before, _ in WATCHES[1:]:
            before()
        for name, gradient in self.model.gradient.items():
            self.model.weight[name] = self.model.weight[name] - self.rate * gradient
        for _, after in WATCHES[1:]:
            after()


def backward(model: Model, gradients: Arrays) -> None:
    for before, _ in WATCHES[:1]:
        before()
    for name, gradient in gradients.items():
        model.gradient[name] = model.gradient.get(name, 0.0) + gradient
    for _, after in WATCHES[:1]:
        after()


def stored(arrays: Arrays) -> Arrays:
    """Give arrays as the side stores them: torch [out, in], paddle [in, out]."""
    return {name: np.array(array.T if SIDE == "torch" else array, order="C") for name, array in arrays.items()}


def specs(model: Model) -> Any:
    layout = "out_in" if SIDE == "torch" else "in_out"
    return tuple(
        TensorSpec(
            name=name,
            kind="parameter",
            shape=array.shape,
            dtype=array.dtype.name,
            trainable=True,
            module="fc",
            module_type="Linear",
            role=name[3:],
            layout=layout if array.ndim == 2 else "",
            internal_name=name,
        )
        for name, array in stored(model.weight).items()
    )


def watch(before: Callable[[], None], after: Callable[[], None]) -> Callable[[], None]:
    WATCHES.append((before, after))
    return WATCHES.clear


@contextmanager
def nothing(*arguments: Any, **named: Any) -> Iterator[Arrays]:
    yield {}


@contextmanager
def used_gradients(optimizer: Optimizer, model: Model, room: Any) -> Iterator[Arrays]:
    yield stored(model.gradient)


TWIN = SimpleNamespace(
    prepare=lambda settings: None,
    version=lambda: np.__version__,
    read_settings=lambda: {"threads": 1},
    check_training=lambda training: None,
    unwrap_model=lambda model: model,
    cast_model=lambda model, dtype: model.weight.update(
        {name: array.astype(dtype) for name, array in model.weight.items()}
    ),
    keep_mode=lambda model, mode: None,
    describe_tensors=specs,
    describe_modules=lambda model: (ModuleSpec("", "Model", "Model", False), ModuleSpec("fc", "Linear", "Linear", False)),
    describe_optimizer=lambda optimizer, model: OptimizerSpec(
        "SGD", "SGD", (GroupSpec(tuple(model.weight), {"lr": optimizer.rate}),)
    ),
    describe_scheduler=lambda scheduler: None,
    read_parameters=lambda model, room=None: stored(model.weight),
    read_buffers=lambda model, room=None: {},
    read_gradients=lambda model, room=None: stored(model.gradient),
    read_optimizer_state=lambda optimizer, model, room=None: {},
    write_tensors=lambda model, arrays: model.weight.update(stored(arrays)),
    write_optimizer_state=lambda optimizer, model, arrays: None,
    learning_rates=lambda optimizer: [optimizer.rate],
    clips_inside=lambda optimizer: False,
    used_gradients=used_gradients,
    record_activations=nothing,
    watch_backward=watch,
    watch_updates=lambda optimizer, before, after: watch(before, after),
    from_numpy=np.array,
    to_numpy=np.asarray,
)


def child() -> None:
    """Be a process that the script starts, as a loader's workers are: it must not take itself for the script."""
    print("child says", attach().attached, flush=True)


def main() -> None:
    if FAULT == "never":
        print("this script knows nothing of stepalign")
        return
    if FAULT == "other_framework":
        __import__("paddle" if SIDE == "torch" else "torch")
    if "STEPALIGN_ENDPOINT" in os.environ:
        from stepalign.workers import own_loop

        own_loop.import_twin = lambda framework: TWIN
    client = attach()
    model = Model()
    optimizer = Optimizer(model)
    if FAULT == "raise_before":
        raise OSError("no such dataset")
    if FAULT == "spawn":
        process = multiprocessing.get_context("spawn").Process(target=child)
        process.start()
        process.join()
    random = np.random.default_rng(1)
    own = [{"x": random.normal(size=(4, 2)), "y": random.normal(size=(4, 3))} for _ in range(2)]
    batches = client.batches(own, model=None if FAULT == "no_model" else model, optimizer=optimizer, **options())
    for epoch in range(2):
        for number, batch in enumerate(batches):
            train(client, model, optimizer, batch, number)
            if FAULT == "break" and number == 1:
                break
            if FAULT == "exit" and number == 1:
                sys.exit(4)
        print("pass", epoch, "ended", flush=True)
    for _ in range(3 if FAULT == "more" else 0):
        train(client, model, optimizer, own[0], 0)
        print("more", flush=True)


def options() -> Dict[str, Any]:
    known: Dict[str, Dict[str, Any]] = {
        "names": {"names": ("x", "y")},
        "wrong_names": {"names": ("x", "z")},
        "passes": {"length": 2, "numpy": True},
    }
    return known.get(FAULT, {})


def train(client: Any, model: Model, optimizer: Optimizer, batch: Any, number: int) -> None:
    x, y = batch if isinstance(batch, tuple) else (batch["x"], batch["y"])
    error = x @ model.weight["fc.weight"] + model.weight["fc.bias"] - y
    gradient = 2 * error / error.size
    model.gradient.clear()
    backward(model, {"fc.weight": x.T @ gradient, "fc.bias": gradient.sum(0)})
    if FAULT == "raise" and number == 1:
        raise ValueError("this script was asked to raise")
    if FAULT != "no_update":
        optimizer.step()
    if FAULT == "update_twice":
        optimizer.step()
    model.gradient.clear()
    optimizer.rate *= 0.5
    loss = np.mean(error * error)
    if FAULT == "unreduced":
        client.step(loss=error)
    elif FAULT == "other_optimizer":
        client.step(loss=loss, optimizer=Optimizer(model))
    elif FAULT != "no_report":
        client.step(loss=loss, optimizer=optimizer, model=model)
    if FAULT == "report_twice":
        client.step(loss=loss)


if __name__ == "__main__":
    main()
