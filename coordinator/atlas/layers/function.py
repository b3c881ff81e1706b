"""Functions whose arguments or conventions bite, beside those that are a layer's: attention, sampling, tensor functions."""

from __future__ import annotations

from stepalign.coordinator.atlas.layers.pair import (
    AS_BOOL,
    AS_ZERO,
    Difference,
    Verdict,
    converted,
    function,
    paddle_only,
    same,
)

_F = "nn.functional."
_AXIS = same("dim", "axis", None)

PAIRS = (
    function(
        f"{_F}scaled_dot_product_attention",
        f"{_F}scaled_dot_product_attention",
        same("attn_mask", default=None, note="True: attended to, on both sides"),
        same("dropout_p", default=0.0),
        same("is_causal", default=False),
        same("scale", default=None),
        same(
            "enable_gqa",
            default=False,
            paddle_default=True,
            note="with as many key heads as query heads it changes nothing",
        ),
        paddle_only("training", True),
        differences=(
            Difference("layout", "torch: [batch, head, length, feature]; paddle: [batch, length, head, feature]"),
        ),
    ),
    function(
        f"{_F}interpolate",
        f"{_F}interpolate",
        same("size", default=None),
        same("scale_factor", default=None),
        same("mode", default="nearest"),
        converted("align_corners", "align_corners", AS_BOOL, None, False),
        same("recompute_scale_factor", default=None),
        same("antialias", default=False),
        paddle_only("align_mode", 0, note="1 is another coordinate rule that torch does not have"),
        verdict=Verdict.APPROXIMATE,
        bound=2e-5,
        notes="paddle computes coordinates in float32 where the ratio of the sizes is no integer",
    ),
    function(
        f"{_F}grid_sample",
        f"{_F}grid_sample",
        same("mode", default="bilinear"),
        same("padding_mode", default="zeros"),
        converted("align_corners", "align_corners", AS_BOOL, None, True),
    ),
    function(
        f"{_F}affine_grid",
        f"{_F}affine_grid",
        same("size", "out_shape"),
        converted("align_corners", "align_corners", AS_BOOL, None, True),
    ),
    function(
        f"{_F}rms_norm",
        f"{_F}rms_norm",
        same("normalized_shape"),
        same("weight", default=None),
        same("eps", default=None, paddle_default=1e-5, note="torch's None is the dtype's machine epsilon"),
        verdict=Verdict.NONE,
        differences=(Difference("no CPU kernel", "paddle computes it on the GPU alone"),),
    ),
    function(
        f"{_F}pad",
        f"{_F}pad",
        same("pad"),
        same("mode", default="constant"),
        converted("value", "value", AS_ZERO, None, 0.0),
        paddle_only(
            "pad_from_left_axis", True, False, note="a list for every axis starts at the first axis by default"
        ),
        verdict=Verdict.EXACT,
    ),
    function(
        f"{_F}normalize",
        f"{_F}normalize",
        same("p", default=2.0),
        same("dim", "axis", 1),
        same("eps", "epsilon", 1e-12),
        differences=(
            Difference(
                "gradient with a large epsilon",
                "of |x|, where it is above eps: torch x / |x|, paddle x / (|x| + eps)",
            ),
        ),
    ),
    function(
        "median",
        "median",
        paddle_only("mode", "avg", "min", note="with an even count torch takes the lower of the two middle values"),
        verdict=Verdict.EXACT,
    ),
    function(
        "split",
        "split",
        same("split_size_or_sections", "num_or_sections", note="a list of sizes is the same on both sides"),
        same("dim", "axis", 0),
        differences=(Difference("an integer", "torch: the size of each part; paddle: the number of parts"),),
        verdict=Verdict.EXACT,
    ),
    function(
        "max",
        "max",
        same("dim", "axis"),
        same("keepdim", default=False),
        verdict=Verdict.EXACT,
        differences=(
            Difference(
                "gradient of ties", "torch gives it to the first of the greatest, paddle an equal share to each"
            ),
        ),
        notes="torch returns values and indices, paddle values",
    ),
    function(
        "std",
        "std",
        _AXIS,
        same("unbiased", default=True),
        same("keepdim", default=False),
        differences=(Difference("gradient of a constant", "torch: 0; paddle: NaN"),),
    ),
    function("var", "var", _AXIS, same("unbiased", default=True), same("keepdim", default=False)),
    function(
        "pow",
        "pow",
        same("exponent", "y"),
        verdict=Verdict.APPROXIMATE,
        bound=2e-6,
        notes="an exponent that is a number is a float32 in paddle",
    ),
    function("logsumexp", "logsumexp", same("dim", "axis"), same("keepdim", default=False)),
)
