"""Which cause explains the output of the first module that differs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.cause import Cause
from stepalign.coordinator.diagnosis.modules.elementwise import FUNCTIONS
from stepalign.coordinator.diagnosis.numbers import explain_activation

from ..declared.declared_sides import module

RANDOM = np.random.default_rng(4)


def noisy(array: np.ndarray, dtype: str = "float32") -> np.ndarray:
    noise = 1e-7 if dtype == "float32" else 1e-15
    return (array * (1 + noise * np.random.default_rng(8).normal(size=array.shape))).astype(dtype)


def explain(
    kind: str, torch: np.ndarray, paddle: np.ndarray, inputs: np.ndarray | None = None, **arguments: Any
) -> list[Cause]:
    spec = module("block.m", kind, **arguments)
    return explain_activation(spec, spec, torch.astype(np.float32), paddle.astype(np.float32), inputs)


def first(*given: Any, **arguments: Any) -> str:
    causes = explain(*given, **arguments)
    return causes[0].code if causes else ""


X = RANDOM.normal(size=(4, 9, 8)).astype(np.float32)


def test_equal_outputs_have_no_cause() -> None:
    assert explain("Linear", X, X) == []
    assert explain("Linear", X, noisy(X), X) == []


@pytest.mark.parametrize(
    ("torch", "paddle", "code"),
    [
        ("gelu (erf)", "gelu (tanh)", "gelu_approximation"),
        ("gelu (tanh)", "gelu (erf)", "gelu_approximation"),
        ("gelu (erf)", "relu", "activation_function"),
        ("silu", "quick gelu, x * sigmoid(1.702 x)", "activation_function"),
        ("hardsigmoid, slope 1/6", "hardsigmoid, slope 0.2", "activation_function"),
        ("relu", "relu6", "activation_function"),
        ("tanh", "sigmoid", "activation_function"),
    ],
)
def test_activation_functions_are_told_apart_by_their_input(torch: str, paddle: str, code: str) -> None:
    inputs = 4 * X
    causes = explain("MyActivation", FUNCTIONS[torch](inputs), FUNCTIONS[paddle](inputs), inputs)
    assert causes[0].code == code and torch in causes[0].evidence and paddle in causes[0].evidence


@pytest.mark.parametrize(("ours", "theirs"), [(0.01, 0.2), (0.3, 0.01)])
@pytest.mark.parametrize("known", [True, False])
def test_a_leaky_slope_is_found_with_and_without_the_input(ours: float, theirs: float, known: bool) -> None:
    torch, paddle = np.where(X > 0, X, ours * X), np.where(X > 0, X, theirs * X)
    assert first("LeakyReLU", torch, paddle, X if known else None) == "negative_slope"


@pytest.mark.parametrize(
    ("least", "greatest", "shown"),
    [(-1.0, 1.5, "[-1, 1.5]"), (None, 0.5, "(-inf, 0.5]"), (-0.25, None, "[-0.25, inf)")],
)
@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_values_that_one_side_holds_to_bounds_are_told_with_them(
    least: float | None, greatest: float | None, shown: str, side: str
) -> None:
    held, free = noisy(np.clip(X, least, greatest)), X
    cause = explain("Linear", *((held, free) if side == "torch" else (free, held)))[0]
    beyond = np.count_nonzero(np.clip(X, least, greatest) != X)
    assert cause.code == "clamped"
    assert f"{side}'s values are" in cause.evidence and f"held to {shown} ({beyond} of {X.size}" in cause.evidence
    assert ("look for clip" in cause.fix) == (side == "paddle")


def test_two_values_that_differ_by_chance_are_no_bounds() -> None:
    torch = X.copy()
    torch.flat[[5, 77]] = 40.0, 50.0
    assert "clamped" not in [cause.code for cause in explain("Linear", torch, X)]
    assert "clamped" not in [cause.code for cause in explain("Linear", 3 * X, np.tanh(X))]
    assert "clamped" not in [cause.code for cause in explain("Linear", X, np.maximum(X, 0.0))]


@pytest.mark.parametrize("kind", ["softmax", "log_softmax"])
def test_a_softmax_over_another_axis_is_found(kind: str) -> None:
    def over(axis: int) -> np.ndarray:
        y = np.exp(X) / np.exp(X).sum(axis=axis, keepdims=True)
        return np.log(y) if kind == "log_softmax" else y

    causes = explain("Softmax", over(1), over(2), X)
    assert causes[0].code == "axis" and "axis 1 in torch and over axis 2" in causes[0].evidence


def layer_norm(x: np.ndarray, eps: float, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    weight, bias = random.normal(size=x.shape[-1]), random.normal(size=x.shape[-1])
    x = x.astype(np.float64)
    centred = x - x.mean(-1, keepdims=True)
    return weight * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) + bias


@pytest.mark.parametrize(("ours", "theirs", "scale"), [(1e-5, 1e-3, 1.0), (1e-12, 1e-5, 0.05), (1e-6, 1e-5, 0.1)])
def test_the_epsilon_of_a_layer_norm_is_fitted(ours: float, theirs: float, scale: float) -> None:
    x = scale * RANDOM.normal(size=(6, 20, 32)) * RANDOM.uniform(0.3, 2.0, size=(6, 20, 1))
    causes = explain("LayerNorm", layer_norm(x, ours), layer_norm(x, theirs), x, eps=ours, normalized_shape=(32,))
    assert causes[0].code == "norm_epsilon"
    assert f"epsilon={ours:.7g}" in causes[0].fix


def rms_norm(x: np.ndarray, inside: float = 0.0, outside: float = 0.0) -> np.ndarray:
    x = x.astype(np.float64)
    root = np.sqrt((x**2).mean(-1, keepdims=True) + inside) + outside
    return (np.linspace(0.5, 2.0, x.shape[-1]) * x / root).astype(np.float32)


@pytest.mark.parametrize("swapped", [False, True])
def test_an_epsilon_outside_the_root_of_ones_own_norm_is_told_as_such(swapped: bool) -> None:
    x = (0.02 * RANDOM.normal(size=(4, 12, 32)) * RANDOM.uniform(0.5, 2.0, size=(4, 12, 1))).astype(np.float32)
    outputs = [rms_norm(x, inside=1e-6), rms_norm(x, outside=1e-6)]
    own = replace(module("m", "RMSNorm"), framework_class="paddle_side.RMSNorm")
    causes = explain_activation(own, own, *(outputs[::-1] if swapped else outputs), x, x)
    assert causes[0].code == "norm_epsilon" and "1e-06 outside the root" in causes[0].evidence
    assert "paddle.nn" not in causes[0].fix and "row_scale" not in {cause.code for cause in causes}
    assert ("x / (root + epsilon)" if swapped else "x / sqrt(mean square + epsilon)") in causes[0].fix


def test_the_fix_of_ones_own_norm_names_no_class_of_paddle() -> None:
    x = (0.02 * RANDOM.normal(size=(4, 12, 32))).astype(np.float32)
    own = replace(module("m", "RMSNorm"), framework_class="paddle_side.RMSNorm")
    cause = explain_activation(own, own, rms_norm(x, inside=1e-6), rms_norm(x, inside=1e-5), x, x)[0]
    assert cause.fix == "epsilon 1e-06 in m of the paddle model"


def test_the_epsilon_of_a_group_norm_is_fitted() -> None:
    x = 0.1 * RANDOM.normal(size=(6, 8, 5, 5)) * RANDOM.uniform(0.3, 2.0, size=(6, 8, 1, 1))

    def norm(eps: float) -> np.ndarray:
        g = x.reshape(6, 4, 2, 25)
        centred = g - g.mean((2, 3), keepdims=True)
        return (centred / np.sqrt((centred**2).mean((2, 3), keepdims=True) + eps)).reshape(x.shape)

    assert first("GroupNorm", norm(1e-5), norm(1e-3), x, num_groups=4) == "norm_epsilon"


@pytest.mark.parametrize("size", [64, 12])
def test_a_missing_root_of_the_width_is_named(size: int) -> None:
    causes = explain("Attention", X, X * math.sqrt(size))
    assert causes[0].code == "scale" and f"sqrt({size})" in causes[0].evidence


def test_a_dropout_that_scales_in_evaluation_is_named() -> None:
    assert first("Dropout", X, X * 0.7, p=0.3) == "dropout_mode"


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_active_dropout_on_one_side_is_named(rate: float) -> None:
    x = RANDOM.normal(size=(16, 64))
    kept = RANDOM.uniform(size=x.shape) >= rate
    causes = explain("MyBlock", x, np.where(kept, x / (1 - rate), 0.0))
    assert causes[0].code == "dropout_active" and "model.eval()" in causes[0].fix
    assert first("MyBlock", np.where(kept, x / (1 - rate), 0.0), x) == "dropout_active"


def test_other_masks_on_both_sides_are_named() -> None:
    x = RANDOM.normal(size=(16, 64))
    masks = RANDOM.uniform(size=(2, *x.shape)) >= 0.2
    assert first("Dropout", np.where(masks[0], x, 0.0), np.where(masks[1], x, 0.0)) == "dropout_masks"


def test_rows_of_zeros_are_a_padding_index() -> None:
    zeroed = X.copy()
    zeroed[1, 3:6] = 0.0
    assert first("Embedding", X, zeroed) == "padding_idx"


def test_some_positions_that_differ_are_a_mask() -> None:
    other = X.copy()
    other[2, 5:] = RANDOM.normal(size=other[2, 5:].shape)
    assert first("Encoder", X, other) == "mask"


def test_a_border_that_differs_by_a_few_factors_is_pool_padding() -> None:
    image = RANDOM.normal(size=(2, 3, 7, 7))
    counts = np.full((7, 7), 9.0)
    counts[[0, -1], :] = counts[:, [0, -1]] = 6.0
    counts[[0, 0, -1, -1], [0, -1, 0, -1]] = 4.0
    assert first("AvgPool2d", image, image * 9.0 / counts) == "pool_padding"


def test_a_border_that_differs_otherwise_is_a_padding_mode() -> None:
    image = RANDOM.normal(size=(2, 3, 9, 9))
    other = RANDOM.normal(size=image.shape)
    other[:, :, 1:-1, 1:-1] = image[:, :, 1:-1, 1:-1]
    assert first("Conv2d", image, other) == "padding_mode"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_reordering_is_named_with_its_axis(axis: int) -> None:
    order = np.roll(np.arange(X.shape[axis]), 3)
    causes = explain("Block", X, np.take(X, order, axis))
    assert causes[0].code == "permuted" and f"axis {axis}" in causes[0].evidence


def test_layouts_are_named() -> None:
    assert first("LSTM", X, np.swapaxes(X, 0, 1)) == "layout"
    square = RANDOM.normal(size=(3, 6, 6))
    assert first("Attention", square, np.swapaxes(square, 1, 2)) == "layout"
    assert first("Flatten", X, X.reshape(4, 72)) == "layout"
    assert first("Block", X, np.swapaxes(X, 1, 2).reshape(X.shape)) == "layout"
    assert first("Block", X, X[:, :5]) == "shape"


def test_exchanged_axes_are_named_with_both() -> None:
    square = RANDOM.normal(size=(3, 6, 6))
    assert "axes 1 and 2 exchanged" in explain("Attention", square, np.swapaxes(square, 1, 2))[0].evidence
    assert "axes 0 and 1 exchanged" in explain("LSTM", X, np.swapaxes(X, 0, 1))[0].evidence


def test_other_numbers_in_another_shape_of_the_same_size_are_another_shape() -> None:
    assert first("Flatten", X, RANDOM.normal(size=(4, 72))) == "shape"


def test_an_output_of_zeros_is_no_padding_index_and_one_that_mostly_differs_no_mask() -> None:
    codes = {cause.code for cause in explain("Embedding", X, np.zeros_like(X))}
    assert not codes & {"padding_idx", "mask"}
    mostly = RANDOM.normal(size=X.shape)
    mostly[:, :2] = X[:, :2]
    assert explain("Encoder", X, mostly) == []


def test_a_factor_is_not_one_for_each_channel_and_few_numbers_make_none() -> None:
    assert [cause.code for cause in explain("Block", X, 1.37 * X)] == ["scale"]
    row = RANDOM.normal(size=(1, 8))
    assert explain("Block", row, row * RANDOM.uniform(0.5, 2.0, size=8)) == []


def test_what_rounding_explains_is_no_layout_and_no_factor() -> None:
    assert explain("Block", X, X * (1 + 3e-6 * RANDOM.normal(size=X.shape)), X) == []


def test_a_constant_and_a_bias_are_told_apart() -> None:
    assert first("Block", X, X + 0.5) == "offset"
    assert first("Linear", X, X + RANDOM.normal(size=8)) == "bias"


def test_a_batch_norm_with_other_statistics_is_named() -> None:
    image = RANDOM.normal(size=(4, 3, 5, 5))
    scale, shift = RANDOM.uniform(0.5, 2.0, size=(2, 1, 3, 1, 1))
    assert first("BatchNorm2d", image, image * scale + shift) == "batch_norm_statistics"


def test_a_factor_for_each_channel_is_named() -> None:
    assert first("Block", X, X * np.linspace(0.5, 2.0, 8)) == "channel_scale"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_named(bad: float) -> None:
    other = X.copy()
    other[0, 0, 0] = bad
    assert explain("Block", X, other)[0].category.value == "nonfinite"
    assert explain("Block", other, other) == []


def test_unrelated_outputs_have_no_cause() -> None:
    assert explain("Block", X, RANDOM.normal(size=X.shape), X) == []
    assert explain("LayerNorm", X, X * (1 + 0.1 * RANDOM.normal(size=X.shape)), X, normalized_shape=(8,)) == []


def test_an_input_that_differs_itself_is_not_used() -> None:
    spec = module("m", "GELU")
    y, z = FUNCTIONS["gelu (erf)"](X), FUNCTIONS["relu"](X)
    assert explain_activation(spec, spec, y, z, X, X + 1) == []


@pytest.mark.parametrize("shape", [(20, 12), (4, 6, 12)])
def test_a_factor_for_each_row_is_named(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(2)
    ours = random.normal(size=shape).astype(np.float32)
    theirs = (ours * random.uniform(0.5, 0.8, size=(*shape[:-1], 1))).astype(np.float32)
    causes = explain_activation(module("m", "MoE"), module("m", "MoE"), ours, theirs)
    assert [cause.code for cause in causes] == ["row_scale"]
    what = "index of axis 0" if len(shape) == 2 else "vector of the last axis"
    assert f"a factor for each {what} (0.5" in causes[0].evidence


@pytest.mark.parametrize(("sign", "code"), [(1.0, "multiply by 1 + weight"), (-1.0, "multiply by weight")])
def test_a_norm_that_multiplies_by_one_plus_its_weight_is_no_other_epsilon(sign: float, code: str) -> None:
    x = RANDOM.normal(size=(4, 12, 32)).astype(np.float32)
    weight = 0.1 * RANDOM.normal(size=32) if sign > 0.0 else np.ones(32)
    root = np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-6)
    outputs = [noisy(x / root * (weight + add)) for add in ((1.0, 0.0) if sign > 0.0 else (0.0, 1.0))]
    causes = explain("RMSNorm", *outputs, x)
    assert causes[0].code == "norm_weight_offset" and causes[0].fix.startswith(code)
    assert "norm_epsilon" not in {cause.code for cause in causes}


def test_zeros_fit_any_epsilon_and_name_none() -> None:
    x = RANDOM.normal(size=(4, 12, 32)).astype(np.float32)
    assert "norm_epsilon" not in {cause.code for cause in explain("RMSNorm", rms_norm(x, inside=1e-6), 0.0 * x, x)}


def test_a_small_difference_is_no_other_order_of_the_same_numbers() -> None:
    x = (0.3 * RANDOM.normal(size=(4, 12, 32))).astype(np.float32)
    causes = explain("RMSNorm", rms_norm(x, inside=1e-5), rms_norm(x, inside=1e-6), x)
    assert [cause.code for cause in causes] == ["norm_epsilon"]


def unit(x: np.ndarray, axis: int) -> np.ndarray:
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


@pytest.mark.parametrize(
    ("torch", "paddle", "code", "said"),
    [
        (unit(X, 2), unit(X, 0), "axis", "length 1 along axis 2 in torch and along axis 0 in paddle"),
        (unit(X, 2), X, "unit_length", "torch brings vectors to length 1 along axis 2, paddle leaves them"),
        (X, unit(X, 1), "unit_length", "paddle brings vectors to length 1 along axis 1, torch leaves them"),
    ],
)
def test_vectors_of_length_one_are_told(torch: np.ndarray, paddle: np.ndarray, code: str, said: str) -> None:
    cause = explain("Tower", torch, paddle)[0]
    assert cause.code == code and said in cause.evidence


def test_vectors_of_length_one_in_another_direction_say_nothing_of_normalisation() -> None:
    other = RANDOM.normal(size=X.shape)
    codes = {cause.code for cause in [*explain("Tower", unit(X, 2), other), *explain("Tower", unit(X, 2), unit(other, 2))]}
    assert not codes & {"unit_length", "axis"}


def test_a_function_that_one_side_applies_to_the_others_output_is_named() -> None:
    scale = np.asarray(2.65926)
    cause = explain("Model", np.exp(scale), scale)[0]
    assert cause.code == "activation_function" and cause.fix.startswith("apply exp at block.m")
    cause = explain("Model", X, FUNCTIONS["sigmoid"](X))[0]
    assert cause.code == "activation_function" and cause.fix.startswith("leave sigmoid out at block.m")


def test_small_numbers_are_no_function_of_themselves() -> None:
    small = 1e-3 * X
    assert "activation_function" not in {cause.code for cause in explain("Model", small, small * (1 + 1e-4 * X))}


@pytest.mark.parametrize(("kind", "batch"), [("MultiheadAttention", (0, 1)), ("LSTM", (1, 0))])
def test_a_layer_that_takes_another_axis_for_the_batch_is_told(kind: str, batch: tuple[int, int]) -> None:
    torch, paddle = (module("block.m", kind, batch_first=axis == 0) for axis in batch)
    other = RANDOM.normal(size=X.shape).astype(np.float32)
    causes = explain_activation(torch, paddle, X, other, X, X)
    assert causes[0].code == "batch_first"
    assert f"torch's {kind} takes its axis {batch[0]} for the batch, paddle's takes axis {batch[1]}" in causes[0].evidence
    assert first(kind, X, other, X, batch_first=True) != "batch_first"
    assert "batch_first" not in [cause.code for cause in explain_activation(torch, paddle, X, other)]
