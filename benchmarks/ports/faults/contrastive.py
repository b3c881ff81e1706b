"""Two towers trained against each other that compute something else: temperature, normalisation, directions."""

from __future__ import annotations

from benchmarks.ports.port import ACTIVATION, USED_GRADIENT, Port, faulty

ADAMW = {"lr": 1e-3, "weight_decay": 0.1, "decay_exclude": "bias_and_norm"}
SCALE_ALONE = {"weights": {"ignore": ["logit_scale", "scale"]}}

FAULTS: tuple[Port, ...] = (
    faulty(
        "two_towers_temperature_frozen",
        "two_towers",
        "frozen_parameter",
        USED_GRADIENT,
        options=ADAMW,
        paddle={"frozen": ["logit_scale"]},
    ),
    faulty(
        "two_towers_one_direction",
        "two_towers",
        "loss",
        "loss",
        options=ADAMW,
        paddle={"directions": ["image"]},
        quick=True,
        note="the cross-entropy over captions alone, without the one over images",
    ),
    faulty(
        "two_towers_text_not_normalised",
        "two_towers",
        "forward",
        ACTIVATION,
        options=ADAMW,
        paddle={"normalised": ["image"]},
    ),
    faulty(
        "two_towers_normalised_over_the_batch",
        "two_towers",
        "forward",
        ACTIVATION,
        options=ADAMW,
        paddle={"normalise_axis": 0},
        dtype="float64",
    ),
    faulty(
        "two_towers_scale_not_exponentiated",
        "two_towers",
        ("forward", "loss"),
        (*ACTIVATION, "loss"),
        options=ADAMW,
        paddle={"scale": "raw"},
        note="torch's logarithm is loaded and used as the scale itself",
    ),
    faulty(
        "two_towers_scale_trained_as_it_is",
        "two_towers",
        ("forward", "loss"),
        (*ACTIVATION, "loss"),
        1,
        options=ADAMW,
        paddle={"scale": "raw", "scale_name": "scale"},
        sections=SCALE_ALONE,
        note="both start at 1 / 0.07; torch trains the logarithm, paddle the scale",
    ),
    faulty(
        "two_towers_last_position_pooled",
        "two_towers",
        "forward",
        ACTIVATION,
        options=ADAMW,
        paddle={"pooled": "last"},
        note="the end of a caption is where its greatest id stands",
    ),
)
