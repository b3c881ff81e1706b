"""Step a torch optimizer under given gradients and save what it did.

Run as ``python torch_trajectory.py request.json in.npz out.npz``. The request file holds requests by label;
each names the optimizer class and its arguments (``groups`` overrides them by parameter), the lr of each step, and
``clip`` (the max_norm of clip_grad_norm_) where wanted. in.npz holds ``p/<name>`` and ``g/<name>`` ([steps, *shape]).
out.npz holds ``<label>/after/<step>/<name>``, ``<label>/used/<step>/<name>`` and
``<label>/state/<step>/<name>/<slot>``, common slot names.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

SLOTS = {
    "exp_avg": "moment1",
    "exp_avg_sq": "moment2",
    "max_exp_avg_sq": "moment2_max",
    "momentum_buffer": "velocity",
    "exp_inf": "inf_norm",
    "sum": "sum_of_squares",
    "acc_delta": "mean_update_square",
    "grad_avg": "mean_gradient",
    "square_avg": "mean_square",
}


def main() -> None:
    torch.set_num_threads(1)
    requests = json.loads(Path(sys.argv[1]).read_text())
    data = np.load(sys.argv[2])
    saved: dict[str, np.ndarray] = {}
    for label, request in requests.items():
        saved.update({f"{label}/{key}": array for key, array in run(request, data).items()})
    np.savez(sys.argv[3], **saved)


def run(request: dict[str, Any], data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [key[2:] for key in data.files if key.startswith("p/")]
    parameters = {name: torch.nn.Parameter(torch.from_numpy(data["p/" + name].copy())) for name in names}
    groups = [{"params": [parameters[name]], **request.get("groups", {}).get(name, {})} for name in names]
    optimizer = getattr(torch.optim, request["class"])(groups, **request["arguments"])
    saved: dict[str, np.ndarray] = {}
    for step, rate in enumerate(request["lr"]):
        for group, name in zip(optimizer.param_groups, names):
            group["lr"] = rate
            parameters[name].grad = torch.from_numpy(data["g/" + name][step].copy())
        if request.get("clip"):
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), request["clip"])
        for name in names:
            saved[f"used/{step}/{name}"] = parameters[name].grad.numpy().copy()
        optimizer.step()
        for name, parameter in parameters.items():
            saved[f"after/{step}/{name}"] = parameter.detach().numpy().copy()
            for slot, value in optimizer.state[parameter].items():
                if value is not None:
                    array = value.detach().numpy().copy() if torch.is_tensor(value) else np.asarray(value)
                    saved[f"state/{step}/{name}/{SLOTS.get(slot, slot)}"] = array
    return saved


main()
