"""Weight decay that differs: its size, its kind, what it spares."""

from __future__ import annotations

from benchmarks.ports.port import Port, faulty

ADAMW = {"lr": 1e-3, "weight_decay": 0.01}
MOMENTUM = {"optimizer": "momentum", "lr": 0.05}
STATE = ("optimizer_state", "parameter")

FAULTS: tuple[Port, ...] = (
    faulty(
        "decay_missing", "mlp", "weight_decay", "parameter", options=ADAMW, paddle={"weight_decay": 0.0}, quick=True
    ),
    faulty(
        "decay_default_added",
        "vit",
        "weight_decay",
        "parameter",
        options={"lr": 1e-3},
        paddle={"weight_decay": 0.01},
        note="AdamW decays by 0.01 by default",
    ),
    faulty(
        "decay_tiny_float64",
        "mlp",
        "weight_decay",
        "parameter",
        options={"lr": 1e-3, "weight_decay": 1e-5},
        torch={"weight_decay": 0.0},
        dtype="float64",
    ),
    faulty(
        "sgd_decay_missing",
        "mlp",
        "weight_decay",
        STATE,
        options={**MOMENTUM, "weight_decay": 1e-4},
        paddle={"weight_decay": 0.0},
    ),
    faulty(
        "decay_filter_by_wrong_names",
        "transformer",
        "weight_decay",
        "parameter",
        options={"lr": 1e-3, "weight_decay": 0.01, "decay_exclude": "bias_and_norm"},
        paddle={"decay_filter": "structured_names"},
        note="apply_decay_param_fun sees linear_0.b_0, not fc.bias",
    ),
    faulty(
        "decay_on_bias_and_norm",
        "mlp",
        "weight_decay",
        "parameter",
        options=ADAMW,
        torch={"decay_exclude": "bias_and_norm"},
    ),
    faulty(
        "decay_missing_100_steps",
        "mlp",
        "weight_decay",
        "parameter",
        options=ADAMW,
        torch={"weight_decay": 0.0},
        steps=100,
        stream=True,
    ),
    faulty(
        "decay_twice",
        "mlp",
        ("weight_decay", "loss"),
        "loss",
        options={"optimizer": "sgd", "lr": 0.05, "weight_decay": 0.01},
        paddle={"penalty": 0.005},
    ),
    faulty(
        "decay_missing_at_a_small_rate",
        "transformer",
        "weight_decay",
        "parameter",
        None,
        options={"lr": 2e-5, "weight_decay": 0.01},
        paddle={"weight_decay": 0.0},
        note="a step's decay is a few units in the last place of a weight",
    ),
    faulty(
        "decay_on_norms_at_a_small_rate",
        "vit",
        "weight_decay",
        "parameter",
        None,
        options={"lr": 5e-5, "weight_decay": 0.05},
        torch={"decay_exclude": "bias_and_norm"},
        stream=True,
    ),
)
