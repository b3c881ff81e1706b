"""What is measured of the losses: every reduction, and the labels and logits that are known to bite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.layers.case import Case, integers, normal, tensor, uniform

A, B = normal(6, 5, seed=4), normal(6, 5, seed=5)
SIGNS = np.sign(normal(6, 5, seed=6))
LABELS = integers(6, high=5)
SOME_IGNORED = np.where(np.arange(6) % 3 == 1, -100, LABELS)
SOME_ZERO = np.where(np.arange(6) % 3 == 1, 0, LABELS)
WEIGHTS = tensor(uniform(5, low=0.5, high=2.0))
_CONSTANT = ("labels", "signs")
_WEIGHT_BUFFERS = ("layer.weight", "layer.pos_weight")
_REDUCTIONS = ({}, {"reduction": "sum"}, {"reduction": "none"})


def _reduced(inputs: Mapping[str, np.ndarray], *more: Mapping[str, Any]) -> list[Case]:
    return [case(each, inputs) for each in (*_REDUCTIONS, *more)]


def case(arguments: Mapping[str, Any], inputs: Mapping[str, np.ndarray], **rest: Any) -> Case:
    """Return a case of a loss: class weights are no state of the model, labels have no gradient."""
    return Case(arguments, inputs, **{"constant": _CONSTANT, "ignored_tensors": _WEIGHT_BUFFERS, **rest})


def _cross_entropy() -> list[Case]:
    logits, image = {"x": A, "labels": LABELS}, {"x": normal(2, 5, 3, 4), "labels": integers(2, 3, 4, high=5)}
    square = {"x": normal(2, 5, 3, 5), "labels": integers(2, 3, 5, high=5)}
    far = {"x": np.array([[0.0, 100.0, -20.0], [30.0, -50.0, 2.0]]), "labels": np.array([0, 1])}
    soft = {"x": A, "labels": np.exp(B) / np.exp(B).sum(1, keepdims=True)}
    weighted_soft = {"weight": WEIGHTS}
    return [
        case(weighted_soft, soft, paddle_arguments={"soft_label": True}, shows="probabilities with class weights"),
        *_reduced(
            logits,
            {"weight": WEIGHTS},
            {"weight": WEIGHTS, "reduction": "sum"},
            {"label_smoothing": 0.1},
            {"label_smoothing": 0.1, "reduction": "sum"},
        ),
        case({"label_smoothing": 0.1, "reduction": "none"}, logits, shows="label smoothing without reduction"),
        case(
            {},
            soft,
            paddle_arguments={"soft_label": True},
            constant=(),
            compare=("gradient of labels",),
            shows="gradient of the labels",
        ),
        case({}, image, label="4 dimensions"),
        case({}, square, label="4 dimensions, as many classes as columns"),
        case({"ignore_index": 0}, {"x": A, "labels": SOME_ZERO}, label="labels ignored, ignore_index=0"),
        case({"ignore_index": 0, "weight": WEIGHTS}, {"x": A, "labels": SOME_ZERO}, label="the same with weights"),
        case({}, soft, paddle_arguments={"soft_label": True}, label="probabilities for labels"),
        case({"reduction": "none"}, {"x": A, "labels": SOME_IGNORED}, label="labels ignored, no reduction"),
        case({"reduction": "sum"}, {"x": A, "labels": SOME_IGNORED}, label="labels ignored, sum"),
        case({}, {"x": A, "labels": SOME_IGNORED}, label="labels ignored", shows="mean with a negative ignore_index"),
        case({}, far, label="a gap of 100", shows="clipped logits"),
        case({}, {"x": A, "labels": np.full(6, -100)}, label="all labels ignored", shows="every label ignored"),
        case(
            {"label_smoothing": 0.1, "ignore_index": 0},
            {"x": A, "labels": SOME_ZERO},
            shows="label smoothing with an ignored label",
        ),
        case({"label_smoothing": 0.1, "weight": WEIGHTS}, logits, shows="label smoothing with class weights"),
    ]


def _nll() -> list[Case]:
    log = A - np.log(np.exp(A).sum(1, keepdims=True))
    return [
        *_reduced({"x": log, "labels": LABELS}, {"weight": WEIGHTS}, {"weight": WEIGHTS, "reduction": "sum"}),
        case({}, {"x": normal(2, 5, 3, 4), "labels": integers(2, 3, 4, high=5)}, label="4 dimensions"),
        case(
            {"reduction": "none"}, {"x": log, "labels": SOME_IGNORED}, label="labels ignored, no reduction", alone=True
        ),
        case(
            {},
            {"x": normal(64, 10), "labels": np.where(np.arange(64) % 3 == 1, -100, integers(64, high=10))},
            label="labels ignored",
            shows="memory with an ignored label",
            alone=True,
        ),
    ]


def _ctc() -> list[Case]:
    inputs = {
        "x": normal(12, 3, 6),
        "labels": 1 + integers(3, 4, high=5),
        "lengths": np.array([12, 11, 10]),
        "label_lengths": np.array([4, 3, 2]),
    }
    log = inputs["x"] - np.log(np.exp(inputs["x"]).sum(-1, keepdims=True))
    given = {**inputs, "x": log}
    as_int32 = {"labels": inputs["labels"].astype(np.int32)}
    return [case(each, given, paddle_inputs=as_int32) for each in (*_REDUCTIONS, {"blank": 0})]


_MARGINS = {"a": normal(6), "b": normal(6, seed=8), "signs": np.sign(normal(6, seed=9))}
_GAUSSIAN = {"x": A, "labels": B, "variance": uniform(6, 5, low=0.1)}
_THREE = {"anchor": A, "positive": B, "negative": normal(6, 5, seed=10)}

LOSS_CASES: Mapping[str, list[Case]] = {
    "L1Loss": _reduced({"a": A, "b": B}),
    "MSELoss": _reduced({"a": A, "b": B}),
    "SmoothL1Loss": _reduced({"a": A, "b": B}, {"beta": 0.5}, {"beta": 2.0}),
    "HuberLoss": _reduced({"a": A, "b": B}, {"delta": 0.5}, {"delta": 2.0}),
    "CrossEntropyLoss": _cross_entropy(),
    "NLLLoss": _nll(),
    "BCELoss": [
        *_reduced({"x": uniform(6, 5, low=0.01, high=0.99), "labels": uniform(6, 5)}, {"weight": WEIGHTS}),
        case(
            {},
            {"x": np.array([[0.0, 1.0, 1.0, 0.0, 0.5]]), "labels": np.array([[0.0, 1.0, 0.0, 1.0, 0.5]])},
            label="at 0 and 1",
        ),
        case(
            {},
            {"x": uniform(6, 5, low=0.01, high=0.99), "labels": uniform(6, 5)},
            constant=(),
            compare=("gradient of labels",),
            shows="gradient of the labels",
        ),
    ],
    "BCEWithLogitsLoss": _reduced({"x": A, "labels": uniform(6, 5)}, {"weight": WEIGHTS}, {"pos_weight": WEIGHTS})
    + [
        case(
            {},
            {"x": A, "labels": uniform(6, 5)},
            constant=(),
            compare=("gradient of labels",),
            shows="gradient of the labels",
        )
    ],
    "KLDivLoss": [
        *_reduced({"x": A - 2.0, "labels": uniform(6, 5, low=0.05)}, {"reduction": "batchmean"}),
        case({"log_target": True}, {"x": A - 2.0, "labels": B - 2.0}),
        case({}, {"x": A - 2.0, "labels": np.maximum(uniform(6, 5) - 0.5, 0.0)}, label="targets of 0"),
        case(
            {},
            {"x": A - 2.0, "labels": uniform(6, 5, low=0.05)},
            constant=(),
            compare=("gradient of labels",),
            shows="gradient of the labels",
        ),
    ],
    "PoissonNLLLoss": _reduced({"x": A, "labels": integers(6, 5, high=6).astype(float)}, {"full": True})
    + [
        case(
            {"log_input": False, "eps": 0.1},
            {"x": uniform(6, 5, low=0.1), "labels": integers(6, 5, high=6).astype(float)},
        )
    ],
    "GaussianNLLLoss": [
        *(
            case(each, _GAUSSIAN, compare=("output*", "gradient of x"))
            for each in (*_REDUCTIONS, {"full": True}, {"eps": 0.5})
        ),
        case({}, _GAUSSIAN, compare=("gradient of variance",), shows="gradient of the variance"),
    ],
    "SoftMarginLoss": _reduced({"x": A, "labels": SIGNS}),
    "HingeEmbeddingLoss": _reduced({"x": A, "labels": SIGNS}, {"margin": 0.4}),
    "MarginRankingLoss": _reduced(_MARGINS, {"margin": 0.4}),
    "CosineEmbeddingLoss": _reduced({"a": A, "b": B, "signs": _MARGINS["signs"]}, {"margin": 0.2}),
    "MultiLabelSoftMarginLoss": _reduced({"x": A, "labels": (SIGNS > 0).astype(float)}, {"weight": WEIGHTS}),
    "MultiLabelMarginLoss": _reduced({"x": A, "labels": np.where(np.arange(5) < 2, integers(6, 5, high=5), -1)}),
    "MultiMarginLoss": _reduced({"x": A, "labels": LABELS}, {"p": 2, "margin": 0.5}, {"weight": WEIGHTS}),
    "TripletMarginLoss": _reduced(_THREE, {"swap": True}, {"margin": 0.3, "p": 1.0}),
    "TripletMarginWithDistanceLoss": _reduced(_THREE, {"swap": True}, {"margin": 0.3}),
    "CTCLoss": _ctc(),
    "CosineSimilarity": [case(each, {"a": A, "b": B}) for each in ({}, {"dim": 0}, {"eps": 1.0})],
    "PairwiseDistance": [case(each, {"a": A, "b": B}) for each in ({}, {"p": 1.0}, {"eps": 0.1, "keepdim": True})],
    "AdaptiveLogSoftmaxWithLoss": [
        case(
            {"in_features": 6, "n_classes": 20, "cutoffs": [4, 10]},
            {"x": normal(8, 6), "labels": integers(8, high=20)},
            shows="names of the weights",
        )
    ],
}
