"""Averages of a model's own weights that are kept otherwise: decay, time, running statistics, what is trained."""

from __future__ import annotations

from benchmarks.ports.port import ACTIVATION, USED_GRADIENT, Port, faulty

ADAMW = {"lr": 1e-3, "weight_decay": 0.01}
MOMENTUM = {"optimizer": "momentum", "lr": 0.02}
EVALUATED = {**MOMENTUM, "target": "none", "buffers": "copied"}

FAULTS: tuple[Port, ...] = (
    faulty(
        "averaged_decay",
        "averaged",
        "buffer",
        "parameter",
        options={**ADAMW, "decay": 0.999},
        paddle={"decay": 0.99},
        mode="train",
        stream=True,
        quick=True,
    ),
    faulty(
        "averaged_before_the_update",
        "averaged",
        "buffer",
        "parameter",
        options=ADAMW,
        paddle={"average_when": "before"},
        mode="train",
        stream=True,
        note="at the first step the average is what the weights are: nothing moves",
    ),
    faulty(
        "averaged_statistics_not_copied",
        "averaged",
        "buffer",
        "buffer",
        options=EVALUATED,
        paddle={"buffers": "own"},
        mode="train",
        stream=True,
    ),
    faulty(
        "averaged_statistics_averaged_too",
        "averaged",
        "buffer",
        "buffer",
        options=EVALUATED,
        paddle={"buffers": "averaged"},
        mode="train",
        stream=True,
        note="paddle's parameters() holds the running statistics, torch's does not",
    ),
    faulty(
        "averaged_target_in_eval",
        "averaged",
        ("forward", "buffer", "hyperparameter"),
        ACTIVATION,
        options=ADAMW,
        paddle={"target": "eval"},
        mode="train",
        stream=True,
    ),
    faulty(
        "averaged_target_of_the_model",
        "averaged",
        ("forward", "loss"),
        (*ACTIVATION, "loss"),
        options={**MOMENTUM, "target": "eval", "buffers": "copied", "decay": 0.9},
        paddle={"target_of": "online"},
        mode="train",
        stream=True,
        note="the model is its own teacher, with statistics that the step's first call has moved",
    ),
    faulty(
        "averaged_ramp_length",
        "averaged",
        "loss",
        ("loss", "gradient"),
        1,
        options={**MOMENTUM, "target": "eval", "buffers": "copied", "ramp": 4},
        paddle={"ramp_step": 2},
        mode="train",
        stream=True,
        note="the weight of the consistency grows by two steps at a time after the first",
    ),
    faulty(
        "averaged_target_trained",
        "averaged",
        "frozen_parameter",
        USED_GRADIENT,
        options=ADAMW,
        paddle={"average_frozen": False, "detach_target": False},
        mode="train",
        dtype="float64",
        stream=True,
        note="the average is left in the optimizer and gradients flow through the target",
    ),
)
