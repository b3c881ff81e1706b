"""Codebooks that are searched or trained otherwise: distances, the straight-through step, which term trains what."""

from __future__ import annotations

from benchmarks.ports.port import ACTIVATION, Port, faulty

ADAM = {"optimizer": "adam", "lr": 1e-3}

FAULTS: tuple[Port, ...] = (
    faulty(
        "codebook_straight_through_missing",
        "codebook",
        "backward",
        "gradient",
        options=ADAM,
        paddle={"straight_through": False},
        quick=True,
        note="the loss is the same; the decoder's gradient goes to the codebook",
    ),
    faulty(
        "codebook_beta_on_the_codebook_term",
        "codebook",
        "backward",
        "gradient",
        options=ADAM,
        paddle={"beta_on": "codebook"},
        note="both terms have one value: the loss is the same",
    ),
    faulty(
        "codebook_term_detached",
        "codebook",
        "backward",
        "gradient",
        options=ADAM,
        paddle={"codebook_term": "detached"},
        stream=True,
    ),
    faulty(
        "codebook_distance_without_norms",
        "codebook",
        "forward",
        ACTIVATION,
        options=ADAM,
        paddle={"distance": "products"},
        dtype="float64",
    ),
    faulty(
        "codebook_rows_reshaped",
        "codebook",
        "forward",
        ACTIVATION,
        options=ADAM,
        paddle={"rows": "reshaped"},
        note="[N, C, H, W] reshaped to rows of C without a transposition",
    ),
    faulty(
        "codebook_beta",
        "codebook",
        ("forward", "loss"),
        (*ACTIVATION, "loss"),
        options=ADAM,
        paddle={"beta": 1.0},
    ),
)
