"""Activation functions, softmax and dropout."""

from __future__ import annotations

from typing import Any

from stepalign.coordinator.atlas.layers.pair import (
    IS_TANH,
    Difference,
    LayerPair,
    Verdict,
    converted,
    layer,
    paddle_only,
    same,
)

_AXIS_NOTE = "torch's None is axis 0 for 1 and 3 dimensions (and 0), else 1; paddle's default is the last"
_SOFTMAX_CLIP = Difference(
    "clipped logits",
    "paddle's CPU kernels compute max(x - max(x), -64) - log(sum(exp(...))): no log probability is below -64 and a bit",
)
_SOFTMAX_NOTE = "paddle's CPU kernels clip at max(x - max(x), -64): no probability is below exp(-64) = 1.6e-28"
_CONSTANTS = "paddle's constants are float32 in a float64 model"
_MASKS = "in training each side draws masks of its own; what is kept is scaled by 1 / (1 - p) on both sides"


def _plain(torch: str, paddle: str = "", **rest: Any) -> LayerPair:
    return layer(torch, paddle or torch, **rest)


def _dropout(torch: str, paddle: str, layout: str) -> LayerPair:
    return layer(torch, paddle, same("p", default=0.5), paddle_only("data_format", layout), notes=_MASKS)


PAIRS = (
    _plain("ReLU", verdict=Verdict.EXACT),
    _plain("ReLU6", verdict=Verdict.EXACT),
    _plain("Sigmoid"),
    _plain("Tanh"),
    layer("SiLU", "Silu", also=("nn.Swish",)),
    _plain("Mish"),
    _plain("Hardswish"),
    _plain(
        "Hardsigmoid",
        verdict=Verdict.APPROXIMATE,
        bound=2e-6,
        notes="torch: clip(x / 6 + 1/2, 0, 1); paddle: clip(0.1666667 x + 0.5, 0, 1)",
    ),
    _plain("LogSigmoid"),
    _plain("Softsign"),
    _plain("Tanhshrink"),
    _plain("Identity", verdict=Verdict.EXACT),
    layer("GELU", "GELU", converted("approximate", "approximate", IS_TANH, "none", False)),
    layer("ELU", "ELU", same("alpha", default=1.0), verdict=Verdict.APPROXIMATE, bound=2e-6, notes=_CONSTANTS),
    layer("CELU", "CELU", same("alpha", default=1.0), verdict=Verdict.APPROXIMATE, bound=2e-6, notes=_CONSTANTS),
    layer(
        "SELU",
        "SELU",
        paddle_only("scale", 1.0507009873554805),
        paddle_only("alpha", 1.6732632423543772),
        verdict=Verdict.APPROXIMATE,
        bound=2e-6,
        notes=_CONSTANTS,
    ),
    layer(
        "LeakyReLU",
        "LeakyReLU",
        same("negative_slope", default=0.01),
        differences=(Difference("gradient at 0", "torch: the slope; paddle: 1"),),
    ),
    layer(
        "PReLU",
        "PReLU",
        same("num_parameters", default=1),
        same("init", default=0.25),
        paddle_only("data_format", "NCHW"),
    ),
    layer(
        "RReLU",
        "RReLU",
        same("lower", default=1.0 / 8.0),
        same("upper", default=1.0 / 3.0),
        verdict=Verdict.APPROXIMATE,
        bound=2e-6,
        notes="in training each side draws slopes of its own; in evaluation both use (lower + upper) / 2, paddle's backward "
        "pass as a float32",
    ),
    layer("Hardtanh", "Hardtanh", same("min_val", "min", -1.0), same("max_val", "max", 1.0), verdict=Verdict.EXACT),
    layer(
        "Hardshrink",
        "Hardshrink",
        same("lambd", "threshold", 0.5),
        verdict=Verdict.EXACT,
        differences=(
            Difference("value at the threshold", "|x| = threshold: torch gives 0, paddle x; their gradients 0 and 1"),
        ),
    ),
    layer(
        "Softshrink",
        "Softshrink",
        same("lambd", "threshold", 0.5),
        verdict=Verdict.APPROXIMATE,
        bound=2e-6,
        notes=_CONSTANTS,
    ),
    layer("Softplus", "Softplus", same("beta", default=1.0), same("threshold", default=20.0)),
    layer(
        "Threshold",
        "ThresholdedReLU",
        same("threshold", paddle_default=1.0),
        same("value", paddle_default=0.0),
        verdict=Verdict.EXACT,
    ),
    layer("GLU", "GLU", same("dim", "axis", -1)),
    layer("Softmax", "Softmax", same("dim", "axis", None, -1, _AXIS_NOTE), notes=_SOFTMAX_NOTE),
    layer("LogSoftmax", "LogSoftmax", same("dim", "axis", None, -1, _AXIS_NOTE), differences=(_SOFTMAX_CLIP,)),
    layer("Softmax2d", "Softmax2D", notes=_SOFTMAX_NOTE),
    layer(
        "Dropout",
        "Dropout",
        same("p", default=0.5),
        paddle_only("axis", None, note="torch has no axis: every element is drawn for itself"),
        paddle_only(
            "mode",
            "upscale_in_train",
            note="'downscale_in_infer' scales by 1 - p in evaluation in place of 1 / (1 - p) in training",
        ),
        notes=_MASKS,
    ),
    _dropout("Dropout2d", "Dropout2D", "NCHW"),
    _dropout("Dropout3d", "Dropout3D", "NCDHW"),
    layer("AlphaDropout", "AlphaDropout", same("p", default=0.5), notes="in training each side draws masks of its own"),
    layer(
        "FeatureAlphaDropout",
        "FeatureAlphaDropout",
        same("p", default=0.5),
        notes="in training each side draws masks of its own",
    ),
)
