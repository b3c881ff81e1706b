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


def main(framework, folder, steps, options):
    """Import, build, and train ``steps`` steps; the loss is read at every step, as a loop that logs it does."""
    for name in ("stepalign", "stepalign.workers"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["stepalign.workers"].Training = Training
    sys.path.insert(0, str(folder))
    if framework == "torch":
        import torch

        torch.manual_seed(0)
    else:
        import paddle

        paddle.seed(0)
    imported = time.monotonic()
    if steps < 0:
        print(json.dumps({"imported": imported}))
        return
    module = __import__(f"{framework}_side")
    training = module.build(types.SimpleNamespace(options=options, folder=folder))
    built = time.monotonic()
    import numpy

    arrays = dict(numpy.load(folder / "data.npz"))
    make = torch.from_numpy if framework == "torch" else paddle.to_tensor
    clear = training.optimizer.zero_grad if framework == "torch" else training.optimizer.clear_grad
    training.model.eval()
    batch = {name: make(array) for name, array in arrays.items()}
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
