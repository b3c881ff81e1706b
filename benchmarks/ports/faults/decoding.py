"""Decoders of today that compute something else: rotary positions, grouped heads, RMSNorm, SwiGLU, the causal mask."""

from __future__ import annotations

from benchmarks.ports.port import ACTIVATION, FAINT, Port, faulty

ADAMW = {"lr": 1e-3, "betas": [0.9, 0.95], "weight_decay": 0.1, "decay_exclude": "bias_and_norm"}
MODULE_ARGUMENT = ("forward", "hyperparameter")

FAULTS: tuple[Port, ...] = (
    faulty(
        "decoder_rope_interleaved",
        "decoder",
        "forward",
        ACTIVATION,
        options=ADAMW,
        paddle={"rope": "interleaved"},
        quick=True,
        note="weights for rotated halves with a function that rotates neighbours",
    ),
    faulty("decoder_rope_base", "decoder", "forward", ACTIVATION, options=ADAMW, paddle={"rope_base": 500000.0}),
    faulty(
        "decoder_rope_base_in_a_table",
        "decoder",
        "forward",
        ACTIVATION,
        options={**ADAMW, "tables": "buffer"},
        paddle={"rope_base": 500000.0},
        note="a table that no checkpoint holds: torch's is not loaded over it",
    ),
    faulty(
        "decoder_key_heads_tiled",
        "decoder",
        "forward",
        ACTIVATION,
        options=ADAMW,
        paddle={"repeat": "tile"},
        note="paddle's tile for torch's repeat_interleave: other heads share keys",
    ),
    faulty(
        "decoder_rms_norm_epsilon",
        "decoder",
        MODULE_ARGUMENT,
        FAINT,
        options=ADAMW,
        torch={"norm_eps": 1e-5},
    ),
    faulty(
        "decoder_norm_weight_plus_one",
        "decoder",
        "forward",
        ACTIVATION,
        options=ADAMW,
        torch={"norm_weight": "plus_one"},
        note="Gemma's weights are around zero: the norm multiplies by 1 + weight",
    ),
    faulty(
        "decoder_gate_and_up_swapped",
        "decoder",
        ("forward", "initial_weights"),
        ACTIVATION,
        options=ADAMW,
        paddle={"gated": "up"},
        dtype="float64",
    ),
    faulty("decoder_mask_off_by_one", "decoder", "forward", ACTIVATION, options=ADAMW, paddle={"causal_offset": 1}),
)
