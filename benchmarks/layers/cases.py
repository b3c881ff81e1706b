"""What is measured of each pair: arguments at their defaults, arguments away from them, and what is known to differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.layers.case import IMAGE, SCALED, Case, X, cases, integers, normal, uniform
from benchmarks.layers.function_cases import FUNCTION_CASES
from benchmarks.layers.loss_cases import LOSS_CASES
from benchmarks.layers.sequence_cases import SEQUENCE_CASES

SPATIAL = {1: {"x": normal(2, 4, 17)}, 2: IMAGE, 3: {"x": normal(2, 4, 6, 7, 5)}}
KINKS = np.array([[-8.0, -6.0, -3.0, -1.0, -0.5, -0.0, 0.0, 0.25, 0.5, 1.0, 3.0, 6.0, 20.0, 25.0]])
FAR = np.array([[0.0, -100.0, -10.0, 30.0], [1.0, 2.0, -90.0, 3.0]])


def _elementwise(*arguments: Mapping[str, Any], kinks: bool = True) -> list[Case]:
    found = cases({"x": normal(4, 50, scale=2.0)}, *arguments)
    return [*found, Case(arguments[0] if arguments else {}, {"x": KINKS}, label="at kinks")] if kinks else found


def _conv(dimensions: int) -> list[Case]:
    needed = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
    found = cases(
        SPATIAL[dimensions],
        needed,
        {**needed, "stride": 2, "padding": 1, "groups": 2},
        {**needed, "dilation": 2, "bias": False},
        {**needed, "padding": "same"},
    )
    modes = ("reflect", "replicate", "circular") if dimensions < 3 else ("replicate", "circular")
    return [*found, *(Case({**needed, "padding": 1, "padding_mode": each}, SPATIAL[dimensions]) for each in modes)]


def _transposed(dimensions: int) -> list[Case]:
    needed = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
    return cases(
        SPATIAL[dimensions],
        needed,
        {**needed, "stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
        {**needed, "dilation": 2, "bias": False},
    )


def _batch_norm(dimensions: int) -> list[Case]:
    needed, inputs = {"num_features": 4}, SPATIAL[dimensions]
    outputs = ("output*", "gradient*", "buffer*mean")
    return [
        Case(needed, inputs),
        Case({**needed, "eps": 1e-3, "momentum": 0.3, "affine": False}, inputs),
        Case(needed, inputs, mode="train", compare=outputs),
        Case({**needed, "momentum": 0.3}, inputs, mode="train", compare=outputs),
        Case(
            {**needed, "track_running_stats": False},
            inputs,
            mode="train",
            compare=("output*", "gradient*"),
            ignored_tensors=("layer._mean", "layer._variance"),
        ),
        Case(needed, inputs, mode="train", shows="running variance", compare=("buffer*var",)),
    ]


def _instance_norm(dimensions: int) -> list[Case]:
    needed, inputs = {"num_features": 4}, SPATIAL[dimensions]
    return [
        Case(needed, inputs, ignored_tensors=("layer.scale", "layer.bias")),
        Case({**needed, "affine": True, "eps": 1e-3}, inputs),
        Case({**needed, "affine": True}, inputs, mode="train"),
    ]


def _max_pool(dimensions: int) -> list[Case]:
    needed = {"kernel_size": 3}
    return cases(
        SPATIAL[dimensions],
        needed,
        {**needed, "stride": 2, "padding": 1},
        {**needed, "stride": 2, "ceil_mode": True},
        {**needed, "stride": 2, "return_indices": True},
    )


def _average_pool(dimensions: int) -> list[Case]:
    needed = {"kernel_size": 3}
    found = cases(
        SPATIAL[dimensions],
        needed,
        {**needed, "stride": 2, "padding": 1},
        {**needed, "stride": 2, "padding": 1, "count_include_pad": False},
        {**needed, "stride": 2, "ceil_mode": True},
        {**needed, "stride": 2, "padding": 1, "ceil_mode": True},
    )
    bare = Case({**needed, "stride": 2, "padding": 1}, SPATIAL[dimensions], label="padding, the rest at its defaults")
    divisor = Case({**needed, "divisor_override": 5}, SPATIAL[dimensions])
    return [*found, bare, *([divisor] if dimensions > 1 else [])]


def _pads(dimensions: int, *more: Mapping[str, Any]) -> list[Case]:
    sizes = {1: [2, 1], 2: [2, 1, 1, 3], 3: [2, 1, 1, 3, 2, 0]}[dimensions]
    return cases(SPATIAL[dimensions], *({"padding": sizes, **each} for each in more or ({},)))


def _unpool(dimensions: int) -> list[Case]:
    size = {1: (2, 3, 6), 2: (2, 3, 4, 5), 3: (2, 2, 3, 4, 3)}[dimensions]
    cells = np.indices(size[2:]) * 2
    full = [2 * each for each in size[2:]]
    places = np.ravel_multi_index(tuple(cells), full)
    indices = np.broadcast_to(places, size).astype(np.int64)
    return [
        Case(
            {"kernel_size": 2},
            {"x": normal(*size), "indices": indices},
            paddle_inputs={"indices": indices.astype(np.int32)},
        )
    ]


def _softmax(shows: str = "") -> list[Case]:
    return [
        Case({"dim": -1}, X),
        Case({"dim": 1}, X),
        Case({"dim": -1}, {"x": normal(5, 7, scale=8.0)}),
        Case({"dim": -1}, {"x": FAR}, shows=shows),
        Case({}, X, label="3 dimensions, no axis given", defaults_only=True),
        Case({}, {"x": normal(5, 7)}, label="2 dimensions, no axis given", defaults_only=True),
    ]


def _dropout(shape: tuple[int, ...]) -> list[Case]:
    inputs = {"x": normal(*shape)}
    return [
        Case({}, inputs),
        Case({"p": 0.3}, inputs, mode="eval"),
        Case({"p": 0.0}, inputs, mode="train"),
        Case(
            {"p": 0.3},
            {"x": np.ones((4, 40, *shape[2:]))},
            mode="train",
            reduce="values",
            compare=("output*",),
            label="values drawn, p = 0.3",
        ),
    ]


_SIZED: Mapping[str, Callable[[int], list[Case]]] = {
    "Conv": _conv,
    "ConvTranspose": _transposed,
    "BatchNorm": _batch_norm,
    "InstanceNorm": _instance_norm,
    "MaxPool": _max_pool,
    "AvgPool": _average_pool,
    "MaxUnpool": _unpool,
    "ReflectionPad": _pads,
    "ReplicationPad": _pads,
    "CircularPad": _pads,
    "ZeroPad": _pads,
    "ConstantPad": lambda dimensions: _pads(dimensions, {"value": 0.5}),
    "AdaptiveAvgPool": lambda dimensions: cases(SPATIAL[dimensions], {"output_size": 1}, {"output_size": 3}),
    "AdaptiveMaxPool": lambda dimensions: cases(SPATIAL[dimensions], {"output_size": 1}, {"output_size": 3}),
    "LPPool": lambda dimensions: (
        cases(
            {"x": uniform(*SPATIAL[dimensions]["x"].shape, low=0.1)},
            {"norm_type": 2, "kernel_size": 3},
            {"norm_type": 3, "kernel_size": 3, "stride": 2},
        )
        + [
            Case(
                {"norm_type": 2, "kernel_size": 4, "stride": 2, "ceil_mode": True},
                {"x": uniform(*SPATIAL[dimensions]["x"].shape, low=0.1)},
                shows="clipped windows",
            )
        ]
    ),
}

CASES: Mapping[str, list[Case]] = {
    **{f"{family}{d}d": make(d) for family, make in _SIZED.items() for d in (1, 2, 3)},
    **LOSS_CASES,
    **SEQUENCE_CASES,
    "Linear": cases(
        {"x": normal(5, 8)}, {"in_features": 8, "out_features": 6}, {"in_features": 8, "out_features": 6, "bias": False}
    ),
    "Bilinear": [
        Case(
            {"in1_features": 4, "in2_features": 3, "out_features": 6},
            {"a": normal(5, 4), "b": normal(5, 3)},
            shows="shape of the bias",
        )
    ]
    + cases(
        {"a": normal(5, 4), "b": normal(5, 3)},
        {"in1_features": 4, "in2_features": 3, "out_features": 6, "bias": False},
    ),
    "Embedding": [
        Case({"num_embeddings": 10, "embedding_dim": 6}, {"x": integers(4, 7, high=10)}),
        Case({"num_embeddings": 10, "embedding_dim": 6, "max_norm": 0.5}, {"x": integers(4, 7, high=10)}),
        Case({"num_embeddings": 10, "embedding_dim": 6, "scale_grad_by_freq": True}, {"x": integers(4, 7, high=10)}),
        Case({"num_embeddings": 10, "embedding_dim": 6, "padding_idx": 3}, {"x": integers(4, 7, high=3)}),
        Case(
            {"num_embeddings": 10, "embedding_dim": 6, "padding_idx": 1},
            {"x": integers(4, 7, high=10)},
            shows="padding row",
        ),
        Case(
            {"num_embeddings": 10, "embedding_dim": 6, "padding_idx": 1},
            {"x": integers(4, 7, high=10)},
            label="the padding row's gradient",
            compare=("gradient*",),
        ),
    ],
    "SyncBatchNorm": [Case({"num_features": 4}, IMAGE, shows="no CPU kernel")],
    "LayerNorm": [Case({"normalized_shape": [6, 8]}, X, shows="weights over several axes")]
    + cases(
        X,
        {"normalized_shape": 8},
        {"normalized_shape": 8, "eps": 1e-3},
        {"normalized_shape": 8, "eps": 1e-12},
        {"normalized_shape": 8, "bias": False},
        {"normalized_shape": 8, "elementwise_affine": False},
    ),
    "GroupNorm": cases(
        IMAGE,
        {"num_groups": 2, "num_channels": 4},
        {"num_groups": 4, "num_channels": 4, "eps": 1e-3},
    )
    + [
        Case(
            {"num_groups": 2, "num_channels": 4, "affine": False},
            IMAGE,
            compare=("output*",),
            label="no weights, forward",
        ),
        Case(
            {"num_groups": 2, "num_channels": 4, "affine": False},
            IMAGE,
            shows="gradient without weights",
            compare=("gradient*",),
        ),
    ],
    "LocalResponseNorm": cases(IMAGE, {"size": 3}, {"size": 4, "alpha": 0.01, "beta": 0.5, "k": 2.0}),
    **{
        name: _elementwise()
        for name in [
            "ReLU",
            "ReLU6",
            "Sigmoid",
            "Tanh",
            "SiLU",
            "Mish",
            "Hardswish",
            "Hardsigmoid",
            "LogSigmoid",
            "Softsign",
            "Tanhshrink",
            "Identity",
            "SELU",
        ]
    },
    "GELU": _elementwise({}, {"approximate": "tanh"}),
    "ELU": _elementwise({}, {"alpha": 0.3}),
    "CELU": _elementwise({}, {"alpha": 0.3}),
    "LeakyReLU": [
        *_elementwise({}, {"negative_slope": 0.2}, kinks=False),
        Case({}, {"x": KINKS}, label="at kinks", shows="gradient at 0", compare=("gradient*",)),
    ],
    "PReLU": cases(IMAGE, {}, {"num_parameters": 4, "init": 0.1}),
    "RReLU": _elementwise({}, {"lower": 0.2, "upper": 0.4}, kinks=False),
    "Hardtanh": _elementwise({}, {"min_val": -0.5, "max_val": 2.0}),
    "Hardshrink": [
        *_elementwise({}, {"lambd": 1.3}, kinks=False),
        Case({}, {"x": KINKS}, label="at kinks", shows="value at the threshold"),
    ],
    "Softshrink": _elementwise({}, {"lambd": 1.3}),
    "Softplus": _elementwise({}, {"beta": 2.0, "threshold": 5.0}),
    "Threshold": _elementwise({"threshold": 1.0, "value": 0.0}, {"threshold": 0.3, "value": -2.0}),
    "GLU": cases(X, {}, {"dim": 1}),
    "Softmax": _softmax(),
    "LogSoftmax": _softmax("clipped logits"),
    "Softmax2d": cases(IMAGE),
    "Dropout": _dropout((3, 5)),
    "Dropout2d": _dropout((2, 3, 4, 4)),
    "Dropout3d": _dropout((2, 3, 3, 3, 3)),
    "AlphaDropout": _dropout((3, 5)),
    "FeatureAlphaDropout": _dropout((2, 3, 4, 4)),
    "Upsample": cases(IMAGE, *SCALED),
    "UpsamplingBilinear2d": cases(IMAGE, {"scale_factor": 2}, {"size": [5, 11]}),
    "UpsamplingNearest2d": cases(IMAGE, {"scale_factor": 2}, {"size": [5, 11]}),
    "PixelShuffle": cases(IMAGE, {"upscale_factor": 2}),
    "PixelUnshuffle": cases({"x": normal(2, 3, 6, 8)}, {"downscale_factor": 2}),
    "ChannelShuffle": cases(IMAGE, {"groups": 2}),
    "Flatten": cases(IMAGE, {}, {"start_dim": 2}, {"start_dim": 1, "end_dim": 2}),
    "Unflatten": cases(X, {"dim": 1, "unflattened_size": {"$tuple": [2, 3]}}),
    "Unfold": cases(IMAGE, {"kernel_size": 3}, {"kernel_size": 2, "stride": 2, "padding": 1, "dilation": 2}),
    "Fold": cases(
        {"x": normal(2, 12, 20)},
        {"output_size": [5, 6], "kernel_size": 2},
    )
    + cases({"x": normal(2, 12, 12)}, {"output_size": [6, 5], "kernel_size": 2, "stride": 2, "padding": 1}),
    **FUNCTION_CASES,
}
"""By the pair's name."""
