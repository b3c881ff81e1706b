"""Losses and backward passes that differ under the same forward."""

from __future__ import annotations

from benchmarks.ports.port import Port, faulty

ADAMW = {"lr": 1e-3, "weight_decay": 0.01}
MOMENTUM = {"optimizer": "momentum", "lr": 0.02}

FAULTS: tuple[Port, ...] = (
    faulty(
        "label_smoothing_missing",
        "mlp",
        "loss",
        "loss",
        options={**ADAMW, "label_smoothing": 0.1},
        paddle={"label_smoothing": 0.0},
        quick=True,
    ),
    faulty(
        "loss_summed",
        "recurrent",
        ("loss", "gradient_accumulation"),
        "loss",
        options=ADAMW,
        paddle={"reduction": "sum"},
        mode="train",
    ),
    faulty(
        "loss_summed_in_torch",
        "convnet",
        ("loss", "gradient_accumulation"),
        "loss",
        options=MOMENTUM,
        torch={"reduction": "sum"},
    ),
    faulty(
        "unlabelled_tokens_in_the_mean",
        "tied_lm",
        "loss",
        "loss",
        options=ADAMW,
        paddle={"unlabelled": "built_in"},
        note="paddle's mean counts labels of -100",
    ),
    faulty(
        "smooth_l1_is_huber",
        "mlp",
        "loss",
        "loss",
        options={**ADAMW, "loss": "smooth_l1", "beta": 0.5},
        paddle={"huber": True},
    ),
    faulty("labels_shifted_twice", "tied_lm", ("loss", "data"), "loss", options=ADAMW, paddle={"shift_again": True}),
    faulty("dice_smoothing", "unet", "loss", "loss", options={**ADAMW, "dice": True}, paddle={"dice_smooth": 1e-5}),
    faulty(
        "loss_weight",
        "mlp",
        "loss",
        "loss",
        options={**ADAMW, "loss": "bce"},
        torch={"loss_scale": 2.0},
        dtype="float64",
    ),
    faulty(
        "trunk_detached",
        "mlp",
        "backward",
        "gradient",
        options=MOMENTUM,
        paddle={"detach": "blocks"},
        quick=True,
    ),
    faulty(
        "states_detached_in_torch",
        "recurrent",
        "backward",
        "gradient",
        options=ADAMW,
        torch={"detach": "states"},
        mode="train",
    ),
    faulty(
        "output_embedding_detached",
        "tied_lm",
        "backward",
        "gradient",
        options=ADAMW,
        paddle={"detach": "output_embedding"},
    ),
    faulty(
        "gradient_reversal_missing",
        "convnet",
        "backward",
        "gradient",
        options={**MOMENTUM, "domain_head": True},
        paddle={"flip": False},
    ),
    faulty(
        "gradient_reversal_strength",
        "convnet",
        "backward",
        "gradient",
        options={**MOMENTUM, "domain_head": True, "flip_strength": 0.1},
        paddle={"flip_strength": 1.0},
        dtype="float64",
    ),
)
