"""Losses and distances."""

from __future__ import annotations

from collections.abc import Mapping

from stepalign.coordinator.atlas.layers.pair import (
    CLASS_WEIGHTS,
    REDUCTION,
    Difference,
    Verdict,
    layer,
    paddle_only,
    same,
)
from stepalign.protocol.specs import Scalar

_HUBER = "h(d) = d^2 / 2 for |d| < beta, else beta (|d| - beta / 2)"


def _smooths_beside_ignored(declared: Mapping[str, Scalar]) -> bool:
    ignored = declared.get("ignore_index")
    return bool(declared.get("label_smoothing")) and isinstance(ignored, int) and ignored >= 0


_WEIGHTED_MEAN = (
    "q the (smoothed) probabilities, l_i = -sum_c q_ic log p_ic, v_i = sum_c w_c q_ic: torch's mean is "
    "-sum_ic w_c q_ic log p_ic / {}, paddle's sum_i v_i l_i / sum_i v_i"
)
_LABELS = Difference("gradient of the labels", "torch gives one, paddle none: a target that is computed learns nothing")

PAIRS = (
    layer("L1Loss", "L1Loss", REDUCTION),
    layer("MSELoss", "MSELoss", REDUCTION),
    layer(
        "SmoothL1Loss",
        "SmoothL1Loss",
        REDUCTION,
        same("beta", "delta", 1.0),
        paddle_only("is_huber", True, False, note=f"{_HUBER}: torch's SmoothL1 is h / beta, paddle's default is h"),
    ),
    layer(
        "HuberLoss",
        "SmoothL1Loss",
        REDUCTION,
        same("delta", default=1.0),
        paddle_only("is_huber", True, True),
        also=("nn.HuberLoss",),
    ),
    layer(
        "CrossEntropyLoss",
        "CrossEntropyLoss",
        CLASS_WEIGHTS,
        same("ignore_index", default=-100),
        REDUCTION,
        same("label_smoothing", default=0.0),
        paddle_only("soft_label", False, note="torch takes probabilities by their dtype and shape"),
        paddle_only("axis", -1, 1, note="torch's classes are on axis 1: other than the last from three dimensions on"),
        paddle_only("use_softmax", True),
        verdict=Verdict.APPROXIMATE,
        bound=2e-6,
        differences=(
            Difference(
                "mean with a negative ignore_index",
                "torch divides the sum by the number of labels that are not ignored, paddle by the number of all labels "
                "(for ignore_index < 0, the default -100 too; from 0 on they agree)",
            ),
            Difference(
                "clipped logits",
                "paddle's CPU kernels compute log softmax of max(x - max(x), -64): the loss of one label is at most 64 "
                "and a bit",
            ),
            Difference(
                "label smoothing with an ignored label",
                "paddle raises for ignore_index=-100; from 0 on its mean is the sum over all samples, ignored ones too, / (N C)",
                _smooths_beside_ignored,
                "leave ignored labels and their logits out before the loss",
            ),
            Difference("label smoothing without reduction", "reduction='none' gives [N] in torch, [N, 1] in paddle"),
            Difference("probabilities with class weights", _WEIGHTED_MEAN.format("N")),
            _LABELS,
            Difference(
                "label smoothing with class weights",
                _WEIGHTED_MEAN.format("sum_i w[y_i]"),
                lambda declared: bool(declared.get("label_smoothing") and declared.get("weighted")),
                "write the mean out from F.log_softmax, as torch's formula has it",
            ),
            Difference("every label ignored", "torch: 0 / 0 = NaN; paddle: 0"),
        ),
        notes="label_smoothing is a float32 in a float64 model",
    ),
    layer(
        "NLLLoss",
        "NLLLoss",
        CLASS_WEIGHTS,
        same("ignore_index", default=-100),
        REDUCTION,
        differences=(
            Difference(
                "memory with an ignored label",
                "on the CPU paddle's mean and sum write outside their memory where a label equals ignore_index: a wrong "
                "value, a crash or a hang; reduction='none' is sound",
            ),
        ),
    ),
    layer(
        "BCELoss",
        "BCELoss",
        CLASS_WEIGHTS,
        REDUCTION,
        verdict=Verdict.APPROXIMATE,
        bound=2e-6,
        differences=(_LABELS,),
        notes="for a probability of exactly 0 or 1 paddle's gradient carries a float32 constant in a float64 model",
    ),
    layer(
        "BCEWithLogitsLoss",
        "BCEWithLogitsLoss",
        CLASS_WEIGHTS,
        REDUCTION,
        same("pos_weight", default=None),
        differences=(_LABELS,),
    ),
    layer("KLDivLoss", "KLDivLoss", REDUCTION, same("log_target", default=False), differences=(_LABELS,)),
    layer(
        "PoissonNLLLoss",
        "PoissonNLLLoss",
        same("log_input", default=True),
        same("full", default=False),
        same("eps", "epsilon", 1e-8),
        REDUCTION,
    ),
    layer(
        "GaussianNLLLoss",
        "GaussianNLLLoss",
        same("full", default=False),
        same("eps", "epsilon", 1e-6),
        REDUCTION,
        differences=(
            Difference(
                "gradient of the variance",
                "torch: of log(v) / 2 + (x - y)^2 / (2 v) at v = max(variance, eps); paddle: none, it clips without a gradient",
                lambda declared: True,
                "write the loss out, with paddle.clip(variance, min=epsilon) for v",
                "gradient",
            ),
        ),
    ),
    layer("SoftMarginLoss", "SoftMarginLoss", REDUCTION),
    layer("HingeEmbeddingLoss", "HingeEmbeddingLoss", same("margin", default=1.0), REDUCTION),
    layer("MarginRankingLoss", "MarginRankingLoss", same("margin", default=0.0), REDUCTION),
    layer("CosineEmbeddingLoss", "CosineEmbeddingLoss", same("margin", default=0.0), REDUCTION),
    layer("MultiLabelSoftMarginLoss", "MultiLabelSoftMarginLoss", CLASS_WEIGHTS, REDUCTION),
    layer("MultiLabelMarginLoss", "MultiLabelMarginLoss", REDUCTION),
    layer(
        "MultiMarginLoss",
        "MultiMarginLoss",
        same("p", default=1),
        same("margin", default=1.0),
        CLASS_WEIGHTS,
        REDUCTION,
        verdict=Verdict.APPROXIMATE,
        bound=2e-6,
        notes="paddle computes a share in float32 in a float64 model",
    ),
    layer(
        "TripletMarginLoss",
        "TripletMarginLoss",
        same("margin", default=1.0),
        same("p", default=2.0),
        same("eps", "epsilon", 1e-6),
        same("swap", default=False),
        REDUCTION,
    ),
    layer(
        "TripletMarginWithDistanceLoss",
        "TripletMarginWithDistanceLoss",
        same("distance_function", default=None),
        same("margin", default=1.0),
        same("swap", default=False),
        REDUCTION,
    ),
    layer(
        "CTCLoss",
        "CTCLoss",
        same("blank", default=0),
        REDUCTION,
        same("zero_infinity", default=False),
        notes="paddle's applies a log softmax of its own, which leaves log probabilities as they are; labels [batch, length]",
    ),
    layer("CosineSimilarity", "CosineSimilarity", same("dim", "axis", 1), same("eps", default=1e-8)),
    layer(
        "PairwiseDistance",
        "PairwiseDistance",
        same("p", default=2.0),
        same("eps", "epsilon", 1e-6),
        same("keepdim", default=False),
    ),
    layer(
        "AdaptiveLogSoftmaxWithLoss",
        "AdaptiveLogSoftmaxWithLoss",
        same("in_features"),
        same("n_classes"),
        same("cutoffs"),
        same("div_value", default=4.0),
        same("head_bias", default=False),
        verdict=Verdict.NONE,
        differences=(
            Difference(
                "names of the weights",
                "torch: head.weight, tail.i.j.weight; paddle: head_weight and tail_weights, transposed",
            ),
        ),
    ),
)
