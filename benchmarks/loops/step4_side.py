"""One side trained as the STEP4 scripts do it: alone, its losses dumped by np.save, on demand all it has at every step.

Run as a script by the side's own interpreter: ``step4_side.py FRAMEWORK CASE_FOLDER STEPS OPTIONS OUT WHAT``, WHAT being
``losses`` or ``everything`` (gradients, and parameters after the step). torch goes first and leaves its initial weights;
paddle takes them. Weights of linear layers are dumped as torch keeps them.
"""

import json
import sys
from pathlib import Path

import bare
import numpy as np


def main(name, folder, steps, options, out, everything):
    """Train, and write ``NAME_losses.npy`` and, one file a step, ``NAME_STEP.npz``."""
    framework = bare.framework_of(name)
    training = bare.build(name, folder, options)
    batch = bare.read_batch(name, folder)
    out.mkdir(exist_ok=True)
    parameters = list(training.model.parameters())
    turned = set()
    if name == "paddle":
        layers = training.model.sublayers(include_self=True)
        turned = {id(layer.weight) for layer in layers if isinstance(layer, framework.nn.Linear)}

    def array(parameter, tensor):
        values = tensor.detach().numpy()
        return values.T if id(parameter) in turned else values

    if name == "torch":
        np.savez(out / "weights.npz", *[array(item, item) for item in parameters])
        clear = training.optimizer.zero_grad
    else:
        initial = np.load(out / "weights.npz")
        for item, key in zip(parameters, initial.files):
            item.set_value(initial[key].T.copy() if id(item) in turned else initial[key])
        clear = training.optimizer.clear_grad
    training.model.eval()
    losses = []
    for step in range(steps):
        clear()
        loss = training.loss(training.model, batch)
        losses.append(float(loss))
        loss.backward()
        found = {}
        if everything:
            found = {
                f"gradient_{number}": array(item, item.grad).copy()
                for number, item in enumerate(parameters)
                if item.grad is not None
            }
        training.optimizer.step()
        if training.scheduler is not None:
            training.scheduler.step()
        if everything:
            found.update((f"parameter_{number}", array(item, item)) for number, item in enumerate(parameters))
            np.savez(out / f"{name}_{step}.npz", **found)
    np.save(out / f"{name}_losses.npy", np.array(losses))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]), Path(sys.argv[5]), sys.argv[6] == "everything")
