"""Step a paddle optimizer under given gradients and save what it did: torch_trajectory.py's twin, same files.

``multipliers`` in the request gives single parameters another learning rate. The step count that torch keeps is the
number of updates made; paddle keeps powers of the betas instead.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

SLOTS = {
    "moment": "moment1",
    "mean_grad": "mean_gradient",
    "_avg_squared_grad": "mean_square",
    "_avg_squared_update": "mean_update_square",
    "prevs": "prev",
    "learning_rates": "step_size",
}


def main() -> None:
    requests = json.loads(Path(sys.argv[1]).read_text())
    data = np.load(sys.argv[2])
    saved: dict[str, np.ndarray] = {}
    for label, request in requests.items():
        saved.update({f"{label}/{key}": array for key, array in run(request, data).items()})
    np.savez(sys.argv[3], **saved)


def run(request: dict[str, Any], data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [key[2:] for key in data.files if key.startswith("p/")]
    parameters = {}
    for name in names:
        array = data["p/" + name]
        parameter = paddle.create_parameter(list(array.shape), dtype=str(array.dtype))
        parameter.set_value(paddle.to_tensor(array))
        multiplier = request.get("multipliers", {}).get(name)
        if multiplier is not None:
            parameter.optimize_attr["learning_rate"] = multiplier
        parameters[name] = parameter
    arguments = dict(request["arguments"])
    if request.get("clip"):
        arguments["grad_clip"] = paddle.nn.ClipGradByGlobalNorm(request["clip"])
    if "no_decay" in request:
        kept = {parameters[name].name for name in names if name not in request["no_decay"]}
        arguments["apply_decay_param_fun"] = lambda name: name in kept
    groups = list(parameters.values())
    if "groups" in request:
        groups = [{"params": [parameters[name]], **request["groups"].get(name, {})} for name in names]
    optimizer = getattr(paddle.optimizer, request["class"])(
        learning_rate=request["lr"][0], parameters=groups, **arguments
    )
    saved: dict[str, np.ndarray] = {}
    for step, rate in enumerate(request["lr"]):
        if rate != optimizer.get_lr():
            optimizer.set_lr(rate)
        for name, parameter in parameters.items():
            parameter.grad = paddle.to_tensor(data["g/" + name][step])
        optimizer.step()
        by_parameter = {parameter.name: name for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            saved[f"used/{step}/{name}"] = data["g/" + name][step]
            if request.get("clip"):
                saved[f"used/{step}/{name}"] = parameter.grad.numpy().copy()
            saved[f"after/{step}/{name}"] = parameter.numpy().copy()
        for slot, values in optimizer._accumulators.items():
            common = slot if request["class"] not in ("Adagrad", "RMSProp") else f"{request['class']}/{slot}"
            common = {"Adagrad/moment": "sum_of_squares", "RMSProp/momentum": "velocity"}.get(common, slot)
            for internal, value in values.items():
                saved[f"state/{step}/{by_parameter[internal]}/{SLOTS.get(common, common)}"] = value.numpy().copy()
    return saved


main()
