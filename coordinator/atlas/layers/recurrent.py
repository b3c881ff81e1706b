"""Recurrent layers and attention."""

from __future__ import annotations

from stepalign.coordinator.atlas.layers.pair import (
    ATTRIBUTE,
    DIRECTION,
    NOT,
    Difference,
    LayerPair,
    converted,
    layer,
    paddle_only,
    same,
    torch_only,
)
from stepalign.coordinator.atlas.pairing import REQUIRED, Argument

_SAME_WEIGHTS = (
    "the same flat names, gates and layout; paddle's state_dict has each twice (weight_ih_l0 and 0.cell.weight_ih)"
)
_STATE = "the first state that paddle makes itself is of the default dtype: a float64 model raises"
_BIASES = converted("bias", "bias_ih_attr bias_hh_attr", ATTRIBUTE, True, None)
_CELL = (same("input_size"), same("hidden_size"), _BIASES)

_MASKS = "boolean masks as in MultiheadAttention"
_COPIES = f"torch copies the layer with its weights, paddle draws new ones for each; {_MASKS}"


def _recurrent(torch: str, paddle: str, *more: Argument, weights: str = _SAME_WEIGHTS) -> LayerPair:
    return layer(
        torch,
        paddle,
        same("input_size"),
        same("hidden_size"),
        same("num_layers", default=1),
        _BIASES,
        converted(
            "batch_first",
            "time_major",
            NOT,
            False,
            False,
            note="by default torch takes [time, batch, feature], paddle [batch, time, feature]",
        ),
        same("dropout", default=0.0),
        converted("bidirectional", "direction", DIRECTION, False, "forward"),
        *more,
        weights=weights,
    )


_NO_PROJECTION = torch_only("proj_size", 0, note="only LSTM takes one")
_FROM_TORCH_ATTENTION = (
    "in_proj_weight [3 E, E] is q_proj, k_proj and v_proj [E, E], each transposed; out_proj transposed"
)
_ATTENTION_MASK = Difference(
    "boolean masks",
    "attn_mask True: not attended to in torch, attended to in paddle; float masks are added on both sides",
)
_BATCH_FIRST = torch_only(
    "batch_first", False, True, "paddle always takes [batch, time, feature], torch by default [time, batch, feature]"
)
_NO_ATTENTION_DROPOUT = paddle_only("attn_dropout", None, note="None is dropout's rate, as torch has it")
_NO_ACTIVATION_DROPOUT = paddle_only("act_dropout", None, note="None is dropout's rate, as torch has it")


def _transformer_layer(kind: str) -> LayerPair:
    return layer(
        f"Transformer{kind}Layer",
        f"Transformer{kind}Layer",
        same("d_model"),
        same("nhead"),
        same("dim_feedforward", default=2048, paddle_default=REQUIRED),
        same("dropout", default=0.1),
        same("activation", default="relu"),
        same("layer_norm_eps", default=1e-5),
        _BATCH_FIRST,
        same("norm_first", "normalize_before", False),
        converted("bias", "bias_attr", ATTRIBUTE, True, None),
        _NO_ATTENTION_DROPOUT,
        _NO_ACTIVATION_DROPOUT,
        weights=_FROM_TORCH_ATTENTION,
        differences=(_ATTENTION_MASK,),
    )


PAIRS = (
    _recurrent(
        "LSTM", "LSTM", same("proj_size", default=0), weights=f"{_SAME_WEIGHTS}; weight_hr is weight_ho, transposed"
    ),
    _recurrent("GRU", "GRU", _NO_PROJECTION),
    _recurrent("RNN", "SimpleRNN", same("nonlinearity", "activation", "tanh"), _NO_PROJECTION),
    layer(
        "LSTMCell",
        "LSTMCell",
        *_CELL,
        paddle_only("proj_size", 0),
        notes=f"paddle returns (h, (h, c)), torch (h, c); {_STATE}",
    ),
    layer("GRUCell", "GRUCell", *_CELL, notes=f"paddle returns (h, h), torch h; {_STATE}"),
    layer(
        "RNNCell",
        "SimpleRNNCell",
        *_CELL,
        same("nonlinearity", "activation", "tanh"),
        notes=f"paddle returns (h, h), torch h; {_STATE}",
    ),
    layer(
        "MultiheadAttention",
        "MultiHeadAttention",
        same("embed_dim"),
        same("num_heads"),
        same("dropout", default=0.0),
        converted("bias", "bias_attr", ATTRIBUTE, True, None),
        torch_only("add_bias_kv", False),
        torch_only("add_zero_attn", False),
        same("kdim", default=None),
        same("vdim", default=None),
        _BATCH_FIRST,
        paddle_only("need_weights", False, note="torch takes it in the call, where it is True by default"),
        weights=_FROM_TORCH_ATTENTION,
        differences=(_ATTENTION_MASK,),
        notes="paddle returns the output alone, torch (output, weights)",
    ),
    _transformer_layer("Encoder"),
    _transformer_layer("Decoder"),
    layer(
        "TransformerEncoder",
        "TransformerEncoder",
        same("encoder_layer"),
        same("num_layers"),
        same("norm", default=None),
        torch_only("enable_nested_tensor", True, note="how it is computed, not what"),
        torch_only("mask_check", True, note="how it is computed, not what"),
        weights=_FROM_TORCH_ATTENTION,
        notes=_COPIES,
    ),
    layer(
        "TransformerDecoder",
        "TransformerDecoder",
        same("decoder_layer"),
        same("num_layers"),
        same("norm", default=None),
        weights=_FROM_TORCH_ATTENTION,
        notes=_COPIES,
    ),
    layer(
        "Transformer",
        "Transformer",
        same("d_model", default=512),
        same("nhead", default=8),
        same("num_encoder_layers", default=6),
        same("num_decoder_layers", default=6),
        same("dim_feedforward", default=2048),
        same("dropout", default=0.1),
        same("activation", default="relu"),
        same("custom_encoder", default=None),
        same("custom_decoder", default=None),
        torch_only("layer_norm_eps", 1e-5),
        _BATCH_FIRST,
        same("norm_first", "normalize_before", False),
        converted("bias", "bias_attr", ATTRIBUTE, True, None),
        _NO_ATTENTION_DROPOUT,
        _NO_ACTIVATION_DROPOUT,
        weights=_FROM_TORCH_ATTENTION,
        notes=f"both end encoder and decoder with a LayerNorm always; {_MASKS}",
    ),
)
