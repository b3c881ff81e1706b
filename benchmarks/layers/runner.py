"""One framework's end of the measurement: builds layers and functions as it is told, runs them, answers with arrays.

Run by the framework's own interpreter with the workers' archive on its path: ``runner.py FRAMEWORK FOLDER``. A request
is a line of JSON on standard input, an answer a line of JSON on standard output; arrays lie in .npz files of FOLDER.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import sys
import traceback
import warnings
from typing import Any, Dict, List, Tuple

import numpy as np

FRAMEWORK, FOLDER = sys.argv[1], sys.argv[2]
framework = importlib.import_module(FRAMEWORK)
importlib.import_module(f"{FRAMEWORK}.nn.functional")
twin = importlib.import_module(f"stepalign.workers.{FRAMEWORK}_worker.adapter")
MODULE = framework.nn.Module if FRAMEWORK == "torch" else framework.nn.Layer
BASES = {"LSTM": "RNNBase", "GRU": "RNNBase", "RNN": "RNNBase"}
UPSTREAM_SEED = 7


class Holder(MODULE):  # type: ignore[misc, valid-type]
    """A model of one layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer


class Runner:
    """Keeps what was built last."""

    def __init__(self) -> None:
        self.model: Any = None

    def classes(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """List the framework's layer classes with their parameters and defaults; ``names`` groups those of one class."""
        found: Dict[str, Any] = {}
        groups: Dict[int, List[str]] = {}
        for name in sorted(dir(framework.nn)):
            value = getattr(framework.nn, name)
            if inspect.isclass(value) and issubclass(value, MODULE) and not name.startswith("_"):
                groups.setdefault(id(value), []).append(name)
                found[name] = parameters(getattr(framework.nn, BASES.get(name, name) if FRAMEWORK == "torch" else name))
                if FRAMEWORK == "torch" and name == "RNN":  # taken out of its keywords before the base class sees them
                    found[name].append(("nonlinearity", True, value(1, 1).nonlinearity))
        return {"classes": found, "names": list(groups.values()), "version": framework.__version__}

    def build(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Construct a layer in the dtype asked for, and give its tensors."""
        if FRAMEWORK == "torch":
            framework.manual_seed(0)
        else:
            framework.seed(0)
        layer = find(request["path"])(**{key: self.argument(value) for key, value in request["arguments"].items()})
        self.model = Holder(layer)
        twin.cast_model(self.model, request["dtype"])
        arrays = {**twin.read_parameters(self.model), **twin.read_buffers(self.model)}
        np.savez(f"{FOLDER}/{FRAMEWORK}.npz", **arrays)
        return {
            "tensors": [dataclasses.asdict(spec) for spec in twin.describe_tensors(self.model)],
            "modules": [dataclasses.asdict(spec) for spec in twin.describe_modules(self.model)],
        }

    def run(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Run forward and backward; outputs, gradients and buffers go to the file."""
        arrays = dict(np.load(f"{FOLDER}/{FRAMEWORK}_in.npz"))
        dtype = request["dtype"]
        positional = [
            self.tensor(arrays[f"input/{name}"], dtype, name in request["with_gradient"]) for name in request["inputs"]
        ]
        call = {key: self.argument(value) for key, value in request["call"].items()}
        if request["layer"]:
            twin.write_tensors(
                self.model, {key[7:]: value for key, value in arrays.items() if key.startswith("weight/")}
            )
            twin.set_mode(self.model, request["mode"])
            function = self.model.layer
        else:
            function = find(request["path"])
        by_name: Dict[str, Any] = dict(zip(request["inputs"], positional))
        call.update({key: by_name.pop(name) for key, name in request["named_inputs"].items()})
        if request["state"]:
            by_name["state"] = tuple(by_name.pop(name) for name in request["state"])
        for _ in range(request["repeats"] - 1):
            function(*by_name.values(), **call)
        outputs = flat(function(*by_name.values(), **call))
        outputs = [outputs[number] for number in request["outputs"]] or outputs
        found: Dict[str, np.ndarray] = {}
        losses = []
        for number, output in enumerate(outputs):
            permutation = request["permute_outputs"]
            output = (
                (output.permute(*permutation) if FRAMEWORK == "torch" else output.transpose(permutation))
                if permutation
                else output
            )
            found[f"output {number}"] = twin.to_numpy(output)
            if is_differentiable(output) and "float" in str(output.dtype):
                shape = tuple(output.shape)
                upstream = np.random.default_rng(UPSTREAM_SEED).standard_normal(shape).astype(dtype)
                losses.append((output * self.tensor(upstream, dtype, False)).sum())
        if losses:
            total = losses[0]
            for loss in losses[1:]:
                total = total + loss
            total.backward()
        for name, tensor in zip(request["inputs"], positional):
            if name in request["with_gradient"] and tensor.grad is not None:
                found[f"gradient of {name}"] = twin.to_numpy(tensor.grad)
        if request["layer"]:
            found.update({f"gradient/{name}": value for name, value in twin.read_gradients(self.model).items()})
            found.update({f"buffer/{name}": value for name, value in twin.read_buffers(self.model).items()})
        np.savez(f"{FOLDER}/{FRAMEWORK}.npz", **found)
        return {}

    def tensor(self, array: np.ndarray, dtype: str, with_gradient: bool) -> Any:
        """Make a tensor; numbers with a fraction are of the dtype."""
        if array.dtype.kind == "f":
            array = array.astype(dtype)
        tensor = framework.from_numpy(array) if FRAMEWORK == "torch" else framework.to_tensor(array)
        if with_gradient:
            if FRAMEWORK == "torch":
                tensor.requires_grad_(True)
            else:
                tensor.stop_gradient = False
        return tensor

    def argument(self, value: Any) -> Any:
        """Turn a JSON value into an argument: ``$array`` is a tensor, ``$layer`` a layer, ``$tuple`` a tuple."""
        if isinstance(value, dict) and "$array" in value:
            array = np.asarray(value["$array"], dtype=value.get("kind", "float64"))
            return self.tensor(array, value.get("dtype", "float32"), False)
        if isinstance(value, dict) and "$layer" in value:
            return find(value["$layer"])(**{key: self.argument(each) for key, each in value["arguments"].items()})
        if isinstance(value, dict) and "$tuple" in value:
            return tuple(self.argument(each) for each in value["$tuple"])
        return value


def find(path: str) -> Any:
    """Find what a dotted name below the framework names."""
    found = framework
    for part in path.split("."):
        found = getattr(found, part)
    return found


def parameters(cls: Any) -> List[Tuple[str, bool, Any]]:
    """List a constructor's parameters: name, whether it has a default, and the default as JSON holds it."""
    signature = inspect.signature(cls.__init__)
    listed = []
    for parameter in list(signature.parameters.values())[1:]:
        if (
            parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            or cls.__name__ + parameter.name == "RNNBasemode"
        ):
            continue
        has_default = parameter.default is not parameter.empty
        value = parameter.default if has_default else None
        plain = (
            value if isinstance(value, (type(None), bool, int, float, str)) else getattr(value, "__name__", str(value))
        )
        listed.append((parameter.name, has_default, plain))
    return listed


def flat(outputs: Any) -> List[Any]:
    """List the tensors of a nested output in order."""
    if isinstance(outputs, (list, tuple)):
        return [each for output in outputs for each in flat(output)]
    return [] if outputs is None else [outputs]


def is_differentiable(output: Any) -> bool:
    """Tell whether an output belongs to the graph."""
    return bool(output.requires_grad) if FRAMEWORK == "torch" else not output.stop_gradient


def main() -> None:
    """Answer requests until standard input ends."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a dying framework prints is no answer
    runner = Runner()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": getattr(runner, request["what"])(request)}
        except Exception as error:  # the answer says so; the next request is served
            answer = {
                "error": f"{type(error).__name__}: {error}".strip().splitlines()[0][:300],
                "trace": traceback.format_exc(),
            }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
