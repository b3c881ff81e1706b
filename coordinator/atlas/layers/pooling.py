"""Pooling, padding, resizing and rearranging."""

from __future__ import annotations

from stepalign.coordinator.atlas.layers.pair import (
    AS_BOOL,
    NOT,
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
_AVERAGE = "paddle's backward pass carries 1 / k as float32 in a float64 model: 1e-8 of the gradient"


def _max_pool(dimensions: int) -> LayerPair:
    layout = [paddle_only("data_format", _FORMATS[dimensions])] if dimensions > 1 else []
    return layer(
        f"MaxPool{dimensions}d",
        f"MaxPool{dimensions}D",
        same("kernel_size"),
        same("stride", default=None),
        same("padding", default=0),
        torch_only("dilation", 1),
        same("return_indices", "return_mask", False),
        same("ceil_mode", default=False),
        *layout,
        verdict=Verdict.EXACT,
    )


def _average_pool(dimensions: int) -> LayerPair:
    divisor = [same("divisor_override", default=None)] if dimensions > 1 else []
    layout = [paddle_only("data_format", _FORMATS[dimensions])] if dimensions > 1 else []
    return layer(
        f"AvgPool{dimensions}d",
        f"AvgPool{dimensions}D",
        same("kernel_size"),
        same("stride", default=None),
        same("padding", default=0),
        same("ceil_mode", default=False),
        converted(
            "count_include_pad",
            "exclusive",
            NOT,
            True,
            True,
            note="by default torch divides by the window's size, paddle by the elements that are no padding",
        ),
        *divisor,
        *layout,
        verdict=Verdict.APPROXIMATE,
        bound=2e-6,
        notes=_AVERAGE,
    )


def _adaptive(dimensions: int) -> tuple[LayerPair, LayerPair]:
    layout = [paddle_only("data_format", _FORMATS[dimensions])] if dimensions > 1 else []
    return (
        layer(
            f"AdaptiveAvgPool{dimensions}d",
            f"AdaptiveAvgPool{dimensions}D",
            same("output_size"),
            *layout,
            verdict=Verdict.APPROXIMATE,
            bound=2e-6,
            notes=_AVERAGE,
        ),
        layer(
            f"AdaptiveMaxPool{dimensions}d",
            f"AdaptiveMaxPool{dimensions}D",
            same("output_size"),
            same("return_indices", "return_mask", False),
            verdict=Verdict.EXACT,
        ),
    )


def _lp_pool(dimensions: int) -> LayerPair:
    return layer(
        f"LPPool{dimensions}d",
        f"LPPool{dimensions}D",
        same("norm_type"),
        same("kernel_size"),
        same("stride", default=None),
        same("ceil_mode", default=False),
        paddle_only("padding", 0),
        paddle_only("data_format", _FORMATS[dimensions]),
        verdict=Verdict.APPROXIMATE,
        bound=1e-5,
        differences=(
            Difference(
                "clipped windows",
                "with ceil_mode, m of k elements inside: torch (k / m sum(x^p))^(1/p), paddle (sum(x^p))^(1/p)",
                lambda declared: bool(declared.get("ceil_mode")),
                "pad the input so that every window lies inside, on both sides",
            ),
        ),
        notes="paddle takes the root in float32 in a float64 model",
    )


def _max_unpool(dimensions: int) -> LayerPair:
    return layer(
        f"MaxUnpool{dimensions}d",
        f"MaxUnPool{dimensions}D",
        same("kernel_size"),
        same("stride", default=None),
        same("padding", default=0),
        paddle_only("data_format", _FORMATS[dimensions]),
        paddle_only("output_size", None, note="torch takes it in the call"),
        verdict=Verdict.EXACT,
    )


def _pads(dimensions: int) -> tuple[LayerPair, ...]:
    layout = paddle_only("data_format", _FORMATS[dimensions])
    also = (f"nn.Pad{dimensions}D",)
    return (
        *(
            layer(
                f"{kind}Pad{dimensions}d",
                f"{kind}Pad{dimensions}D",
                same("padding"),
                layout,
                verdict=Verdict.TO_ROUNDING if kind == "Circular" else Verdict.EXACT,
                also=also,
                notes=f"or paddle.nn.Pad{dimensions}D(padding, mode='{mode}')",
            )
            for kind, mode in (("Reflection", "reflect"), ("Replication", "replicate"), ("Circular", "circular"))
        ),
        layer(
            f"ConstantPad{dimensions}d",
            f"ConstantPad{dimensions}D",
            same("padding"),
            same("value"),
            layout,
            verdict=Verdict.EXACT,
            also=also,
        ),
        layer(
            f"ZeroPad{dimensions}d", f"ZeroPad{dimensions}D", same("padding"), layout, verdict=Verdict.EXACT, also=also
        ),
    )


PAIRS = (
    *(_max_pool(dimensions) for dimensions in (1, 2, 3)),
    *(_average_pool(dimensions) for dimensions in (1, 2, 3)),
    *(pair for dimensions in (1, 2, 3) for pair in _adaptive(dimensions)),
    *(_lp_pool(dimensions) for dimensions in (1, 2)),
    *(_max_unpool(dimensions) for dimensions in (1, 2, 3)),
    *(pair for dimensions in (1, 2, 3) for pair in _pads(dimensions)),
    layer(
        "Upsample",
        "Upsample",
        same("size", default=None),
        same("scale_factor", default=None),
        same("mode", default="nearest"),
        converted("align_corners", "align_corners", AS_BOOL, None, False),
        same("recompute_scale_factor", default=None),
        paddle_only("align_mode", 0, note="1 is another coordinate rule that torch does not have"),
        paddle_only("data_format", None),
        verdict=Verdict.APPROXIMATE,
        bound=2e-5,
        notes="paddle computes coordinates in float32 where the ratio of the sizes is no integer",
    ),
    layer(
        "UpsamplingBilinear2d",
        "UpsamplingBilinear2D",
        same("size", default=None),
        same("scale_factor", default=None),
        paddle_only("data_format", "NCHW"),
        verdict=Verdict.APPROXIMATE,
        bound=2e-5,
        notes="align_corners=True on both sides",
    ),
    layer(
        "UpsamplingNearest2d",
        "UpsamplingNearest2D",
        same("size", default=None),
        same("scale_factor", default=None),
        paddle_only("data_format", "NCHW"),
        verdict=Verdict.EXACT,
    ),
    layer(
        "PixelShuffle",
        "PixelShuffle",
        same("upscale_factor"),
        paddle_only("data_format", "NCHW"),
        verdict=Verdict.EXACT,
    ),
    layer(
        "PixelUnshuffle",
        "PixelUnshuffle",
        same("downscale_factor"),
        paddle_only("data_format", "NCHW"),
        verdict=Verdict.EXACT,
    ),
    layer(
        "ChannelShuffle", "ChannelShuffle", same("groups"), paddle_only("data_format", "NCHW"), verdict=Verdict.EXACT
    ),
    layer(
        "Flatten",
        "Flatten",
        same("start_dim", "start_axis", 1),
        same("end_dim", "stop_axis", -1),
        verdict=Verdict.EXACT,
    ),
    layer("Unflatten", "Unflatten", same("dim", "axis"), same("unflattened_size", "shape"), verdict=Verdict.EXACT),
    layer(
        "Unfold",
        "Unfold",
        same("kernel_size", "kernel_sizes"),
        same("dilation", "dilations", 1),
        same("padding", "paddings", 0),
        same("stride", "strides", 1),
    ),
    layer(
        "Fold",
        "Fold",
        same("output_size", "output_sizes"),
        same("kernel_size", "kernel_sizes"),
        same("dilation", "dilations", 1),
        same("padding", "paddings", 0),
        same("stride", "strides", 1),
    ),
)
