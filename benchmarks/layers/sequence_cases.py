"""What is measured of recurrent layers and attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.layers.case import Case, normal

X = {"x": normal(3, 7, 6)}
QKV = {"q": normal(2, 5, 8, seed=11), "k": normal(2, 7, 8, seed=12), "v": normal(2, 7, 8, seed=13)}
BLOCKED = np.triu(np.ones((5, 7), bool), 2)
TRIANGLE = np.where(np.triu(np.ones((5, 5), bool), 1), -1e4, 0.0)
_FIRST = {"batch_first": True}


def _recurrent(*more: Mapping[str, Any]) -> list[Case]:
    needed = {"input_size": 6, "hidden_size": 5}
    return [
        Case({**needed, **_FIRST}, X),
        Case({**needed, **_FIRST, "num_layers": 2, "bidirectional": True}, X),
        Case(needed, X, label="layout at its default", compare=("output 0",)),
        *(Case({**needed, **_FIRST, **each}, X) for each in more),
    ]


def _cell(state: tuple[str, ...], *more: Mapping[str, Any]) -> list[Case]:
    """With a state given: the one that paddle makes itself is of the default dtype."""
    needed = {"input_size": 6, "hidden_size": 5}
    inputs = {"x": normal(3, 6), **{name: normal(3, 5, seed=20 + number) for number, name in enumerate(state)}}
    outputs = tuple(range(1, 1 + len(state)))
    return [
        Case({**needed, **each}, inputs, state=state if len(state) > 1 else (), paddle_outputs=outputs)
        for each in ({}, *more)
    ]


def _attention() -> list[Case]:
    needed = {"embed_dim": 8, "num_heads": 2}
    bias = {"mask": normal(5, 7, seed=14)}
    masked: dict[str, Any] = {
        "call": {"need_weights": False},
        "paddle_call": {},
        "named_inputs": {"attn_mask": "mask"},
        "constant": ("mask",),
    }
    return [
        Case({**needed, **_FIRST}, QKV, call={"need_weights": False}, paddle_call={}),
        Case({**needed, **_FIRST, "bias": False}, QKV, call={"need_weights": False}, paddle_call={}),
        Case({**needed, **_FIRST}, {**QKV, **bias}, label="a float mask", **masked),
        Case(
            {**needed, **_FIRST},
            {**QKV, "mask": BLOCKED},
            label="a boolean mask, inverted",
            paddle_inputs={"mask": ~BLOCKED},
            **masked,
        ),
        Case({**needed, **_FIRST}, {**QKV, "mask": BLOCKED}, label="a boolean mask", shows="boolean masks", **masked),
        Case(
            needed,
            {key: normal(5, 5, 8, seed=number) for number, key in enumerate("qkv")},
            label="layout at its default",
            defaults_only=True,
            call={"need_weights": False},
            paddle_call={},
        ),
    ]


def _encoder_layer(*more: Mapping[str, Any]) -> list[Case]:
    needed = {"d_model": 8, "nhead": 2, "dim_feedforward": 12, **_FIRST}
    masked = Case(
        needed,
        {"x": normal(2, 5, 8), "mask": BLOCKED[:, :5]},
        named_inputs={"src_mask": "mask"},
        label="a boolean mask",
        shows="boolean masks",
    )
    return [*(Case({**needed, **each}, {"x": normal(2, 5, 8)}) for each in ({}, *more)), masked]


def _decoder_layer(*more: Mapping[str, Any]) -> list[Case]:
    needed = {"d_model": 8, "nhead": 2, "dim_feedforward": 12, **_FIRST}
    inputs = {"x": normal(2, 5, 8), "memory": QKV["k"]}
    masked = Case(
        needed,
        {**inputs, "mask": BLOCKED[:, :5]},
        named_inputs={"tgt_mask": "mask"},
        label="a boolean mask",
        shows="boolean masks",
    )
    return [*(Case({**needed, **each}, inputs) for each in ({}, *more)), masked]


def _stack(kind: str, inputs: Mapping[str, np.ndarray]) -> list[Case]:
    sizes = {"d_model": 8, "nhead": 2, "dim_feedforward": 12}
    name = f"nn.Transformer{kind.capitalize()}Layer"
    return [
        Case(
            {f"{kind}_layer": {"$layer": name, "arguments": {**sizes, **_FIRST}}, "num_layers": 2},
            inputs,
            paddle_arguments={f"{kind}_layer": {"$layer": name, "arguments": sizes}},
        )
    ]


def _dot_product() -> list[Case]:
    def heads(length: int, seed: int) -> np.ndarray:
        return normal(2, 3, length, 4, seed=seed)

    inputs = {"query": heads(5, 15), "key": heads(7, 16), "value": heads(7, 17)}
    square = {name: heads(5, seed) for name, seed in (("query", 15), ("key", 16), ("value", 17))}

    def swapped(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.ascontiguousarray(given[name].transpose(0, 2, 1, 3)) for name in ("query", "key", "value")}

    mask = {"mask": ~BLOCKED}
    equal: dict[str, Any] = {"torch_permutation": (0, 2, 1, 3)}
    return [
        Case({}, inputs, paddle_inputs=swapped(inputs), **equal),
        Case({"is_causal": True}, square, paddle_inputs=swapped(square), compare=("output*",), **equal),
        Case({"scale": 0.3}, inputs, paddle_inputs=swapped(inputs), compare=("output*",), **equal),
        Case(
            {},
            {**inputs, **mask},
            paddle_inputs=swapped(inputs),
            named_inputs={"attn_mask": "mask"},
            label="a boolean mask",
            compare=("output*",),
            **equal,
        ),
        Case({}, square, label="torch's layout on both sides", shows="layout"),
    ]


_SIZES = {"d_model": 8, "nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "dim_feedforward": 12}
SEQUENCE_CASES: Mapping[str, list[Case]] = {
    "LSTM": _recurrent({"proj_size": 3}),
    "GRU": _recurrent(),
    "RNN": _recurrent({"nonlinearity": "relu"}),
    "LSTMCell": _cell(("h", "c")),
    "GRUCell": _cell(("h",)),
    "RNNCell": _cell(("h",), {"nonlinearity": "relu"}),
    "MultiheadAttention": _attention(),
    "TransformerEncoderLayer": _encoder_layer({"norm_first": True}, {"activation": "gelu"}, {"layer_norm_eps": 1e-3}),
    "TransformerDecoderLayer": _decoder_layer({"norm_first": True}, {"activation": "gelu"}, {"layer_norm_eps": 1e-3}),
    "TransformerEncoder": _stack("encoder", {"x": normal(2, 5, 8)}),
    "TransformerDecoder": _stack("decoder", {"x": normal(2, 5, 8), "memory": QKV["k"]}),
    "Transformer": [
        Case({**_SIZES, **_FIRST, **each}, {"source": normal(2, 5, 8), "target": QKV["k"]})
        for each in ({}, {"norm_first": True}, {"activation": "gelu"})
    ],
    "scaled_dot_product_attention": _dot_product(),
}
