"""Train the demo case in PyTorch with a loop written by hand: what the harness must agree with bit by bit.

    python plain_torch.py WEIGHTS.npz [--case DIR] [--threads N] [--write]

Prints one JSON object: `losses` (repr of the float32 widened to float64), `losses_hex` (float.hex of the same),
`dtype`, `rates` (one list a step, one rate a parameter group) and `schedule` (step to rate, at 5,000 steps'
milestones). WEIGHTS.npz holds the model's parameters under torch's names; with --write it is made by this script
instead, from a model initialised with seed 0. No code of stepalign runs here: of the case only the model and the
batch are used, and the optimizer, the schedule and the loop are written again.
"""

import argparse
import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch

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
    """Copy every parameter from the file; both must hold the same names and shapes."""
    with np.load(path) as file:
        model.load_state_dict({name: torch.from_numpy(file[name]) for name in file.files}, strict=True)


def train(model, batch, steps):
    """Run `steps` optimizer steps on one batch; return each step's loss and the rates that its update used."""
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        (spared if name.endswith(".bias") or "norm" in name else decayed).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}],
        lr=3e-5,
        betas=(0.9, 0.999),
        eps=1e-8,
    )
    input_ids, labels = torch.from_numpy(batch["input_ids"]), torch.from_numpy(batch["labels"])
    losses, rates = [], []
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model(input_ids), labels)
        loss.backward()
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach().numpy())
    return losses, rates


def read_schedule(steps):
    """Return the rate that each step's update uses, for a linear warm-up of 500 steps and a fall to 0 at 5,000."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=3e-5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: step / 500 if step < 500 else max(0.0, (5000 - step) / 4500)
    )
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    default_case = Path(__file__).resolve().parents[2] / "coordinator" / "cases" / "demo_case"
    parser.add_argument("--case", type=Path, default=default_case)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="make the weights file")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = load_script(arguments.case / "torch_side.py").TextClassifier(OPTIONS)
    if arguments.write:
        np.savez(arguments.weights, **{name: tensor.numpy() for name, tensor in model.state_dict().items()})
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
        "other_frameworks": sorted(name for name in ("paddle", "stepalign.protocol") if name in sys.modules),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
