"""Linear layers, convolutions, embeddings."""

from __future__ import annotations

from stepalign.coordinator.atlas.layers.pair import (
    BIAS,
    Difference,
    LayerPair,
    layer,
    paddle_only,
    same,
    torch_only,
)

_TRANSPOSED = "weight [out, in] in torch is [in, out] in paddle: a square weight copied as it is goes unnoticed"
_FORMATS = {1: "NCL", 2: "NCHW", 3: "NCDHW"}


def _convolution(dimensions: int) -> LayerPair:
    return layer(
        f"Conv{dimensions}d",
        f"Conv{dimensions}D",
        same("in_channels"),
        same("out_channels"),
        same("kernel_size"),
        same("stride", default=1),
        same("padding", default=0),
        same("dilation", default=1),
        same("groups", default=1),
        same("bias", default=True),
        same("padding_mode", default="zeros"),
        paddle_only("data_format", _FORMATS[dimensions]),
        weights="the same layout [out, in / groups, kernel...]",
        notes="padding='same' with a stride: torch raises, paddle computes",
    )


def _transposed_convolution(dimensions: int) -> LayerPair:
    return layer(
        f"ConvTranspose{dimensions}d",
        f"Conv{dimensions}DTranspose",
        same("in_channels"),
        same("out_channels"),
        same("kernel_size"),
        same("stride", default=1),
        same("padding", default=0),
        same("output_padding", default=0),
        same("groups", default=1),
        BIAS,
        same("dilation", default=1),
        torch_only("padding_mode", "zeros", note="torch takes no other"),
        paddle_only("data_format", _FORMATS[dimensions]),
        weights="the same layout [in, out / groups, kernel...]",
        notes="by position the arguments after output_padding differ: dilation comes before groups in paddle's 2D and 3D",
    )


PAIRS = (
    layer("Linear", "Linear", same("in_features"), same("out_features"), BIAS, weights=_TRANSPOSED),
    layer(
        "Bilinear",
        "Bilinear",
        same("in1_features"),
        same("in2_features"),
        same("out_features"),
        BIAS,
        differences=(Difference("shape of the bias", "torch: [out]; paddle: [1, out]"),),
    ),
    *(_convolution(dimensions) for dimensions in (1, 2, 3)),
    *(_transposed_convolution(dimensions) for dimensions in (1, 2, 3)),
    layer(
        "Embedding",
        "Embedding",
        same("num_embeddings"),
        same("embedding_dim"),
        same("padding_idx", default=None),
        same("max_norm", default=None, note="both renormalise the rows used, in place, before the forward pass"),
        same("norm_type", default=2.0),
        same("scale_grad_by_freq", default=False),
        same("sparse", default=False),
        differences=(
            Difference(
                "padding row",
                "torch: y = W[i] for every i; paddle: y = W[i], but 0 for i = padding_idx, whatever the row holds "
                "(its gradient is 0 on both sides)",
            ),
        ),
    ),
)
