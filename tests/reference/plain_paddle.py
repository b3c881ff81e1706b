"""Train the demo case in PaddlePaddle with a loop written by hand: what the harness must agree with bit by bit.

    python plain_paddle.py WEIGHTS.npz [--case DIR] [--threads N]

The twin of plain_torch.py, and it prints the same JSON object. WEIGHTS.npz holds the parameters under torch's names
in torch's layout; the weights of linear layers are transposed here because they are linear layers. `--threads` sets
the environment's OMP_NUM_THREADS before paddle is imported.
"""

import argparse
import importlib.util
import json
import os
import sys
import types
from pathlib import Path

import numpy as np

OPTIONS = {
    "vocabulary": 30522,
    "positions": 512,
    "token_types": 2,
    "hidden": 128,
    "layers": 2,
    "heads": 2,
    "intermediate": 512,
    "labels": 2,
    "dropout": 0.1,
    "layer_norm_eps": 1e-12,
}
MILESTONES = (100, 500, 1000, 2000, 4000)


def load_script(path):
    """Import the case's script with a stand-in for `stepalign.workers`, so that nothing of stepalign is imported."""
    stand_in = types.ModuleType("stepalign.workers")
    stand_in.Training = None
    sys.modules["stepalign"] = types.ModuleType("stepalign")
    sys.modules["stepalign.workers"] = stand_in
    spec = importlib.util.spec_from_file_location("case_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_weights(model, path):
    """Copy every parameter from the file, linear weights transposed; names and shapes must be the same."""
    import paddle

    parameters = dict(model.named_parameters())
    linear = {f"{path}.weight" for path, layer in model.named_sublayers() if isinstance(layer, paddle.nn.Linear)}
    with np.load(path) as file:
        if set(file.files) != set(parameters):
            raise SystemExit(f"names differ: {sorted(set(file.files) ^ set(parameters))}")
        for name in file.files:
            array = np.ascontiguousarray(file[name].T) if name in linear else file[name]
            if list(array.shape) != list(parameters[name].shape):
                raise SystemExit(f"{name}: the file's shape {array.shape} is not {parameters[name].shape}")
            parameters[name].set_value(array)


def train(model, batch, steps):
    """Run `steps` optimizer steps on one batch; return each step's loss and the rates that its update used."""
    import paddle

    decayed = []
    for name, parameter in model.named_parameters():
        if not (name.endswith(".bias") or "norm" in name):
            decayed.append(parameter.name)
    optimizer = paddle.optimizer.AdamW(
        learning_rate=3e-5,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-8,
        parameters=model.parameters(),
        weight_decay=0.01,
        apply_decay_param_fun=lambda name: name in decayed,
    )
    input_ids, labels = paddle.to_tensor(batch["input_ids"]), paddle.to_tensor(batch["labels"])
    losses, rates = [], []
    for _ in range(steps):
        loss = paddle.nn.functional.cross_entropy(model(input_ids), labels)
        loss.backward()
        rates.append([float(optimizer.get_lr())])
        optimizer.step()
        optimizer.clear_grad()
        losses.append(loss.detach().numpy())
    return losses, rates


def read_schedule(steps):
    """Return the rate that each step's update uses, for a linear warm-up of 500 steps and a fall to 0 at 5,000."""
    import paddle

    scheduler = paddle.optimizer.lr.LambdaDecay(
        3e-5, lambda step: step / 500 if step < 500 else max(0.0, (5000 - step) / 4500)
    )
    optimizer = paddle.optimizer.AdamW(learning_rate=scheduler, parameters=[paddle.create_parameter([1], "float32")])
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.get_lr()))
        optimizer.step()
        scheduler.step()
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    default_case = Path(__file__).resolve().parents[2] / "coordinator" / "cases" / "demo_case"
    parser.add_argument("--case", type=Path, default=default_case)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import paddle

    paddle.set_device("cpu")
    model = load_script(arguments.case / "paddle_side.py").TextClassifier(OPTIONS)
    load_weights(model, arguments.weights)
    model.eval()
    with np.load(arguments.case / "data.npz") as file:
        batch = {name: file[name] for name in file.files}
    losses, rates = train(model, batch, steps=10)
    schedule = read_schedule(5000)
    result = {
        "losses": [repr(float(loss)) for loss in losses],
        "losses_hex": [float(loss).hex() for loss in losses],
        "dtype": str(losses[0].dtype),
        "rates": rates,
        "schedule": {str(step): schedule[step] for step in MILESTONES},
        "other_frameworks": sorted(name for name in ("torch", "stepalign.protocol") if name in sys.modules),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
