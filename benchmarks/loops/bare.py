"""The training of one side as a user would run it alone: no stepalign, no messages; prints its times as JSON.

Run as a script by the side's own interpreter: ``bare.py FRAMEWORK CASE_FOLDER STEPS``. All times are of the monotonic
clock, which every process of the machine shares.
"""

import json
import sys
import time
import types
from pathlib import Path


class Training:
    """What the case's script returns; stands in for stepalign's."""

    def __init__(self, model, loss, optimizer, scheduler=None, scheduler_metric=None, after_backward=None):
        self.model, self.loss, self.optimizer, self.scheduler = model, loss, optimizer, scheduler


def framework_of(name):
    """Import the framework that a side is written in, seeded, and make the case's scripts importable without stepalign."""
    for module in ("stepalign", "stepalign.workers"):
        sys.modules[module] = types.ModuleType(module)
    sys.modules["stepalign.workers"].Training = Training
    if name == "torch":
        import torch

        torch.manual_seed(0)
        return torch
    import paddle

    paddle.seed(0)
    return paddle


def build(name, folder, options):
    """Return what the side's own script builds."""
    sys.path.insert(0, str(folder))
    return __import__(f"{name}_side").build(types.SimpleNamespace(options=options, folder=folder))


def read_batch(name, folder):
    """Return the case's one batch as the framework's tensors."""
    import numpy

    framework = sys.modules[name]
    make = framework.from_numpy if name == "torch" else framework.to_tensor
    return {key: make(array) for key, array in numpy.load(folder / "data.npz").items()}


def main(framework, folder, steps, options):
    """Import, build, and train ``steps`` steps; the loss is read at every step, as a loop that logs it does."""
    framework_of(framework)
    imported = time.monotonic()
    if steps < 0:
        print(json.dumps({"imported": imported}))
        return
    training = build(framework, folder, options)
    built = time.monotonic()
    batch = read_batch(framework, folder)
    clear = training.optimizer.zero_grad if framework == "torch" else training.optimizer.clear_grad
    training.model.eval()
    ends, cpu = [], []
    for _ in range(steps):
        clear()
        loss = training.loss(training.model, batch)
        float(loss)
        loss.backward()
        training.optimizer.step()
        if training.scheduler is not None:
            training.scheduler.step()
        ends.append(time.monotonic())
        cpu.append(time.process_time())
    print(json.dumps({"imported": imported, "built": built, "ends": ends, "cpu": cpu}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
