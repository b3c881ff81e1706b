"""Normalisation layers."""

from __future__ import annotations

from stepalign.coordinator.atlas.layers.pair import (
    ATTRIBUTE,
    COMPLEMENT,
    Difference,
    LayerPair,
    Verdict,
    converted,
    layer,
    paddle_only,
    same,
    torch_only,
)

_FORMATS = {1: "NCL", 2: "NCHW", 3: "NCDHW"}
_EPSILON = same("eps", "epsilon", 1e-5)
_AFFINE = converted("affine", "weight_attr bias_attr", ATTRIBUTE, True, None)
_BIAS = torch_only("bias", True, note="torch's affine layer without a bias: bias_attr=False")
_MOMENTUM = converted(
    "momentum",
    "momentum",
    COMPLEMENT,
    0.1,
    0.9,
    note="the share of the new statistics in torch, of the old ones in paddle: 0.1 copied as it is keeps a tenth; "
    "None (a cumulative average) has no counterpart",
)
_TRACKED = converted("track_running_stats", "use_global_stats", ATTRIBUTE, True, None)
_BIASED = Difference(
    "running variance",
    "torch: r = (1 - m) r + m sum((x - mean)^2) / (n - 1); paddle: the same over n, n the values per channel: "
    "smaller by 1/n per update",
)
_BATCH_OF_ONE = "one value per channel in training: torch raises, paddle normalises it to 0"
_STATISTICS = (
    "running_mean and running_var are _mean and _variance, among paddle's parameters; no num_batches_tracked in paddle"
)


def _batch_norm(dimensions: int) -> LayerPair:
    return layer(
        f"BatchNorm{dimensions}d",
        f"BatchNorm{dimensions}D",
        same("num_features"),
        _EPSILON,
        _MOMENTUM,
        _AFFINE,
        _TRACKED,
        _BIAS,
        paddle_only("data_format", _FORMATS[dimensions]),
        verdict=Verdict.APPROXIMATE,
        bound=2e-6,
        differences=(_BIASED,),
        weights=_STATISTICS,
        notes=f"momentum and epsilon are float32 in a float64 model; {_BATCH_OF_ONE}",
        also=("nn.BatchNorm",),
    )


def _instance_norm(dimensions: int) -> LayerPair:
    return layer(
        f"InstanceNorm{dimensions}d",
        f"InstanceNorm{dimensions}D",
        same("num_features"),
        _EPSILON,
        torch_only("momentum", 0.1, note="without running statistics it has no effect; paddle keeps none"),
        converted("affine", "weight_attr bias_attr", ATTRIBUTE, False, None),
        torch_only("track_running_stats", False),
        _BIAS,
        paddle_only("momentum", 0.9, note="no effect: paddle keeps no running statistics"),
        paddle_only("data_format", _FORMATS[dimensions]),
        weights="paddle's weight is called scale",
        notes="paddle's default has a trained scale and bias, torch's none: equal at first, not after an update",
    )


PAIRS = (
    *(_batch_norm(dimensions) for dimensions in (1, 2, 3)),
    layer(
        "SyncBatchNorm",
        "SyncBatchNorm",
        same("num_features"),
        _EPSILON,
        _MOMENTUM,
        _AFFINE,
        torch_only("track_running_stats", True),
        _BIAS,
        paddle_only("data_format", "NCHW"),
        verdict=Verdict.NONE,
        differences=(Difference("no CPU kernel", "paddle computes it on GPUs alone"),),
        weights=_STATISTICS,
        notes="on GPUs as BatchNorm, its running variance too",
    ),
    layer(
        "LayerNorm",
        "LayerNorm",
        same("normalized_shape"),
        _EPSILON,
        same("elementwise_affine", default=True),
        same("bias", default=True),
        differences=(
            Difference(
                "weights over several axes", "torch: weight and bias of normalized_shape; paddle: flat, their product"
            ),
        ),
        notes="epsilon is float32 in a float64 model: 1e-8 relative where the input's deviation is 1e-3",
    ),
    layer(
        "GroupNorm",
        "GroupNorm",
        same("num_groups"),
        same("num_channels"),
        _EPSILON,
        same("affine", default=True),
        _BIAS,
        paddle_only("data_format", "NCHW"),
        differences=(
            Difference(
                "gradient without weights",
                "with affine=False the output agrees, but paddle's CPU backward pass gives another gradient of the input",
                lambda declared: declared.get("affine") is False,
                "GroupNorm with weights of 1 and biases of 0 that are not trained (stop_gradient=True)",
                "gradient",
            ),
        ),
    ),
    *(_instance_norm(dimensions) for dimensions in (1, 2, 3)),
    layer(
        "LocalResponseNorm",
        "LocalResponseNorm",
        same("size"),
        same("alpha", default=1e-4),
        same("beta", default=0.75),
        same("k", default=1.0),
        paddle_only("data_format", "NCHW"),
    ),
)
