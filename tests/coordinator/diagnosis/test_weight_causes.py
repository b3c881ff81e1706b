"""Which cause explains initial weights that differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.cause import Cause
from stepalign.coordinator.diagnosis.numbers import explain_initial_weights

Change = Callable[[np.ndarray], np.ndarray]


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {
        "a.weight": (8, 8),
        "b.weight": (8, 8),
        "rnn.weight_ih_l0": (24, 5),
        "emb.weight": (30, 4),
        "a.bias": (8,),
    }
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def explain(name: str, change: Change, seed: int = 0) -> list[Cause]:
    return explain_initial_weights({n: (w, change(w) if n == name else w.copy()) for n, w in weights(seed).items()})


def with_rows(rows: list[int], value: float) -> Change:
    def change(w: np.ndarray) -> np.ndarray:
        w = w.copy()
        w[rows] = value
        return w

    return change


def gates(*order: int) -> Change:
    return lambda w: np.concatenate([np.split(w, len(order))[i] for i in order])


def brain_float(w: np.ndarray) -> np.ndarray:
    bits = w.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def test_equal_weights_have_no_cause() -> None:
    assert explain("a.weight", lambda w: w.copy()) == []


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("a.weight", lambda w: w.T.copy(), "transposed"),
        ("rnn.weight_ih_l0", lambda w: w.T.copy(), "transposed"),
        ("rnn.weight_ih_l0", gates(1, 0, 2), "block_order"),
        ("rnn.weight_ih_l0", gates(0, 2, 1, 3), "block_order"),
        ("emb.weight", lambda w: w[::-1].copy(), "permuted"),
        ("b.weight", lambda w: w[:, [3, 1, 2, 0, 4, 5, 6, 7]], "permuted"),
        ("a.weight", lambda w: w * np.float32(0.02), "scaled"),
        ("a.bias", lambda w: -w, "scaled"),
        ("emb.weight", with_rows([0], 0.0), "some_rows"),
        ("emb.weight", with_rows([4, 7], 1.5), "some_rows"),
        ("a.weight", lambda w: w.astype(np.float16).astype(np.float32), "rounded_weights"),
        ("b.weight", brain_float, "rounded_weights"),
        ("a.weight", lambda w: w[:4], "shape"),
        ("a.bias", lambda w: np.full_like(w, np.nan), "initial_weights"),
        ("a.weight", lambda w: np.random.default_rng(9).normal(size=w.shape).astype(np.float32), "not_loaded"),
        ("a.bias", np.zeros_like, "not_loaded"),
    ],
)
@pytest.mark.parametrize("seed", [0, 11])
def test_one_tensor_that_differs_is_explained(name: str, change: Change, code: str, seed: int) -> None:
    (cause,) = explain(name, change, seed)
    assert cause.code == code
    assert name in cause.evidence


def test_two_exchanged_tensors_are_named() -> None:
    given = weights()
    swapped = {**given, "a.weight": given["b.weight"], "b.weight": given["a.weight"]}
    (cause,) = explain_initial_weights({name: (given[name], swapped[name]) for name in given})
    assert cause.code == "swapped" and "2 tensors" in cause.evidence


def test_a_model_that_was_never_loaded_is_one_cause() -> None:
    (cause,) = explain_initial_weights({name: (w, weights(1)[name]) for name, w in weights().items()})
    assert cause.code == "not_loaded" and "5 tensors of 5" in cause.evidence


def test_float64_weights_rounded_to_float32_are_named() -> None:
    array = np.random.default_rng(2).normal(size=(6, 7))
    (cause,) = explain_initial_weights({"w": (array, array.astype(np.float32).astype(np.float64))})
    assert cause.code == "rounded_weights" and "float32" in cause.evidence
