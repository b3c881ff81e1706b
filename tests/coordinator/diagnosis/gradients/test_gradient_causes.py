"""Which cause explains gradients that differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.declared.declared_parameters import DeclaredParameter
from stepalign.coordinator.diagnosis.numbers import explain_gradients

NAMES = ["embed.weight", "enc.0.weight", "enc.0.bias", "enc.1.weight", "head.weight", "head.bias"]
SHAPES = [(20, 6), (6, 6), (6,), (6, 6), (5, 6), (5,)]


def gradients(seed: int = 0, dtype: str = "float32") -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(dtype) for name, shape in zip(NAMES, SHAPES, strict=True)}


def pairs(
    change: Callable[[str, np.ndarray], np.ndarray | None], seed: int = 0, dtype: str = "float32"
) -> dict[str, tuple[np.ndarray | None, np.ndarray | None]]:
    random = np.random.default_rng(seed + 1)
    noise = 1e-7 if dtype == "float32" else 1e-15
    result: dict[str, tuple[np.ndarray | None, np.ndarray | None]] = {}
    for name, array in gradients(seed, dtype).items():
        changed = change(name, array)
        if changed is not None:
            changed = (changed * (1 + noise * random.normal(size=changed.shape))).astype(dtype)
        result[name] = (array, changed)
    return result


def first(
    change: Callable[[str, np.ndarray], np.ndarray | None], dtype: str = "float32", loss_ratio: float | None = None
) -> str:
    causes = explain_gradients(pairs(change, dtype=dtype), NAMES, loss_ratio)
    return f"{causes[0].category.value}/{causes[0].code}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", [0, 7])
def test_gradients_equal_to_rounding_have_no_cause(dtype: str, seed: int) -> None:
    assert explain_gradients(pairs(lambda _, g: g, seed, dtype), NAMES) == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("factor", [4.0, 0.125, 2.0])
def test_one_whole_ratio_is_a_reduction_or_a_missing_division(dtype: str, factor: float) -> None:
    assert first(lambda _, g: g * factor, dtype, loss_ratio=factor) == "loss/reduction"
    assert first(lambda _, g: g * factor, dtype, loss_ratio=1.0) == "gradient_accumulation/missing_division"
    codes = {cause.code for cause in explain_gradients(pairs(lambda _, g: g * factor), NAMES)}
    assert {"reduction", "missing_division", "gradient_scale"} <= codes


def confidences(factor: float, loss_ratio: float | None) -> dict[str, float]:
    causes = explain_gradients(pairs(lambda _, g: g * factor), NAMES, loss_ratio)
    return {cause.code: cause.confidence for cause in causes}


def test_what_the_losses_say_of_a_ratio_rules_causes_out_and_makes_others_surer() -> None:
    scaled, agreeing, unknown = (confidences(4.0, ratio) for ratio in (4.0, 1.0, None))
    assert scaled.keys() == {"reduction"}
    assert agreeing.keys() == {"missing_division", "gradient_scale"}
    assert scaled["reduction"] > unknown["reduction"]
    assert agreeing["missing_division"] > unknown["missing_division"]
    odd = confidences(1.37, 1.0)
    assert odd.keys() == {"gradient_scale"} and odd["gradient_scale"] > agreeing["gradient_scale"]


def test_an_odd_ratio_with_equal_losses_is_a_scale_of_the_gradient() -> None:
    assert first(lambda _, g: g * 1.37, loss_ratio=1.0) == "backward/gradient_scale"


def test_a_ratio_below_some_point_only_is_a_scale_there() -> None:
    causes = explain_gradients(pairs(lambda name, g: g * 0.5 if name.startswith(("embed", "enc.0")) else g), NAMES)
    assert causes[0].code == "gradient_scale" and "embed.weight" in causes[0].evidence


def test_a_flipped_sign_is_named() -> None:
    assert first(lambda _, g: -g) == "backward/sign_flipped"
    assert "sign_flipped" not in confidences(-2.0, None)


@pytest.mark.parametrize("least", [0.5, 1.3])
def test_another_factor_for_each_parameter_is_no_single_ratio_and_no_clip(least: float) -> None:
    factors = {name: least + 0.02 * place for place, name in enumerate(NAMES)}
    (cause,) = explain_gradients(pairs(lambda name, g: g * np.float32(factors[name])), NAMES)
    assert cause.code == "scaled_by_parameter" and f"head.bias x {factors['head.bias']:g}" not in cause.evidence
    assert f"embed.weight x {least:g}" in cause.evidence


def test_gradients_that_grow_to_one_norm_each_were_not_clipped() -> None:
    assert first(lambda _, g: g * (100.0 / np.linalg.norm(g))) == "backward/scaled_by_parameter"


def test_a_small_gradient_that_differs_is_no_noise() -> None:
    given = pairs(lambda _, g: g)
    bias = 1e-4 * np.random.default_rng(3).normal(size=6)
    given["enc.0.bias"] = (bias, 2.0 * bias)
    (cause,) = explain_gradients(given, NAMES)
    assert cause.code == "gradient_scale" and "enc.0.bias" in cause.evidence


def test_a_sub_tree_without_gradient_is_detached() -> None:
    def detached(name: str, g: np.ndarray) -> np.ndarray:
        return np.zeros_like(g) if name.startswith(("embed", "enc.0")) else g

    causes = explain_gradients(pairs(detached), NAMES)
    assert causes[0].code == "detached" and "before enc.1.weight" in causes[0].evidence
    reverse = {name: (b, a) for name, (a, b) in pairs(detached).items()}
    assert explain_gradients(reverse, NAMES)[0].code == "not_detached"


def test_zero_gradients_amid_others_are_not_what_comes_before_a_cut() -> None:
    given = pairs(lambda name, g: np.zeros_like(g) if name.startswith("enc.0") else g)
    cut = pairs(lambda name, g: np.zeros_like(g) if name.startswith(("embed", "enc.0")) else g)
    amid, before = (explain_gradients(each, NAMES)[0] for each in (given, cut))
    assert (amid.code, before.code) == ("detached", "detached") and "everything before" not in amid.evidence
    assert amid.confidence < before.confidence


@pytest.mark.parametrize("frozen", ["embed.weight", "enc.0.bias"])
def test_a_parameter_without_gradient_is_frozen(frozen: str) -> None:
    assert first(lambda name, g: None if name == frozen else g) == "frozen_parameter/frozen"
    reverse = {name: (b, a) for name, (a, b) in pairs(lambda name, g: None if name == "enc.1.weight" else g).items()}
    assert explain_gradients(reverse, NAMES)[0].code == "not_frozen"


def test_a_bias_whose_gradient_is_noise_on_both_sides_is_left_out() -> None:
    given = pairs(lambda _, g: g)
    random = np.random.default_rng(3)
    given["enc.0.bias"] = (1e-9 * random.normal(size=6), 1e-9 * random.normal(size=6))
    assert explain_gradients(given, NAMES) == []
    doubled = {name: (ours, None if theirs is None else 2.0 * theirs) for name, (ours, theirs) in given.items()}
    assert explain_gradients(doubled, NAMES, 2.0)[0].code == "reduction"


def test_a_transposed_gradient_is_named() -> None:
    assert first(lambda name, g: g.T if name == "enc.1.weight" else g) == "initial_weights/transposed"


@pytest.mark.parametrize("axis", [0, 1])
def test_a_reordered_gradient_is_named(axis: int) -> None:
    order = [3, 4, 5, 0, 1, 2]
    assert first(lambda name, g: np.take(g, order, axis) if name == "enc.0.weight" else g) == "backward/permuted"


def test_a_gradient_a_little_more_than_a_rounding_apart_is_not_called_reordered() -> None:
    random = np.random.default_rng(5)
    spread = pairs(lambda name, g: g * (1 + 1e-4 * random.normal(size=g.shape)) if name == "enc.0.weight" else g)
    assert explain_gradients(spread, NAMES) == []


def test_rows_without_gradient_are_named() -> None:
    def silent_row(name: str, g: np.ndarray) -> np.ndarray:
        if name == "embed.weight":
            g = g.copy()
            g[3] = 0.0
        return g

    causes = explain_gradients(pairs(silent_row), NAMES)
    assert (
        causes[0].code == "some_rows"
        and "row(s) 3 of 20" in causes[0].evidence
        and "paddle's are zero" in causes[0].evidence
    )


def test_factors_of_channels_are_named() -> None:
    scale = np.linspace(0.5, 2.0, 6)[:, None]
    assert (
        first(lambda name, g: (g * scale).astype(g.dtype) if name == "enc.0.weight" else g) == "backward/channel_scale"
    )


def test_gradients_cut_to_one_norm_each_were_clipped_one_by_one() -> None:
    assert first(lambda _, g: g * (0.1 / np.linalg.norm(g))) == "gradient_clipping/per_tensor"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_named_first_in_backward_order(bad: float) -> None:
    causes = explain_gradients(pairs(lambda name, g: np.full_like(g, bad) if name.startswith("enc") else g), NAMES)
    assert causes[0].category.value == "nonfinite" and "enc.1.weight" in causes[0].evidence


def test_what_is_not_finite_on_both_sides_is_no_difference() -> None:
    given = pairs(lambda name, g: np.full_like(g, np.nan) if name.startswith(("enc", "head.bias")) else g)
    for name in ("enc.0.weight", "enc.0.bias", "enc.1.weight"):
        given[name] = (given[name][1], given[name][1])
    (cause,) = explain_gradients(given, NAMES)
    assert "paddle's gradient of 1 parameter " in cause.evidence and "head.bias" in cause.evidence


def test_unrelated_gradients_have_no_cause() -> None:
    random = np.random.default_rng(5)
    assert explain_gradients(pairs(lambda _, g: random.normal(size=g.shape)), NAMES) == []
    assert explain_gradients(pairs(lambda _, g: g * (1 + 0.1 * random.normal(size=g.shape))), NAMES) == []


def test_one_number_that_differs_is_not_called_a_ratio() -> None:
    given = {"a.weight": (np.ones((3, 3)), np.ones((3, 3))), "a.scale": (np.array([2.0]), np.array([3.0]))}
    assert explain_gradients(given, list(given)) == []


def declared(paddle_trains: Callable[[str], bool], kind: str = "Linear") -> dict[str, DeclaredParameter]:
    return {name: DeclaredParameter(kind, True, paddle_trains(name)) for name in NAMES}


def test_a_parameter_without_gradient_that_paddle_trains_is_detached() -> None:
    given = pairs(lambda name, g: None if name == "enc.0.bias" else g)
    (cause,) = explain_gradients(given, NAMES, declared=declared(lambda _: True))
    assert (cause.category.value, cause.code) == ("backward", "detached") and cause.confidence >= 0.9
    assert "no gradient comes to enc.0.bias in paddle, though trainable there" in cause.evidence
    assert "detach()" in cause.fix and "stop_gradient=False" not in cause.fix
    (cause,) = explain_gradients(given, NAMES, declared=declared(lambda name: name != "enc.0.bias"))
    assert (cause.code, "stop_gradient=False on enc.0.bias" in cause.fix) == ("frozen", True)


def test_a_parameter_that_torch_trains_and_gives_no_gradient_is_detached_there() -> None:
    given = {name: (b, a) for name, (a, b) in pairs(lambda name, g: None if name == "enc.0.bias" else g).items()}
    (cause,) = explain_gradients(given, NAMES, declared=declared(lambda _: True))
    assert cause.code == "not_detached"


def test_the_first_layers_that_paddle_declares_frozen_are_not_detached() -> None:
    def frozen(name: str) -> bool:
        return name.startswith(("embed", "enc.0"))

    given = pairs(lambda name, g: None if frozen(name) else g)
    (cause,) = explain_gradients(given, NAMES, declared=declared(lambda name: not frozen(name)))
    assert cause.code == "frozen"


def test_what_is_frozen_and_what_is_detached_are_told_apart() -> None:
    given = pairs(lambda name, g: None if name in ("embed.weight", "enc.1.weight") else g)
    causes = explain_gradients(given, NAMES, declared=declared(lambda name: name != "embed.weight"))
    assert {(cause.code, "embed.weight" in cause.evidence) for cause in causes} == {("frozen", True), ("detached", False)}


def test_rows_of_a_layer_that_is_no_embedding_are_its_outputs() -> None:
    def one_output(name: str, g: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(g))[:, None] == 1, g + 1.0, g) if name == "head.weight" else g

    (cause,) = explain_gradients(pairs(one_output), NAMES, declared=declared(lambda _: True))
    assert cause.code == "some_rows" and "row(s) 1 of 5 of the gradient of head.weight" in cause.evidence
    assert "Embedding" not in cause.fix and "output(s) 1" in cause.fix
    (cause,) = explain_gradients(pairs(one_output), NAMES, declared=declared(lambda _: True, "Embedding"))
    assert "padding_idx" in cause.fix


def test_a_constant_of_some_gradients_is_told_where_others_differ_otherwise() -> None:
    random = np.random.default_rng(4)

    def changed(name: str, g: np.ndarray) -> np.ndarray:
        return 0.25 * g if name == "embed.weight" else g + random.normal(size=g.shape) if name == "enc.0.weight" else g

    causes = explain_gradients(pairs(changed), NAMES)
    assert causes[0].code == "gradient_scale" and "paddle = 0.25 x torch for 1 gradient (embed.weight)" in causes[0].evidence


def test_unused_rows_do_not_hide_a_constant() -> None:
    unused = np.arange(20)[:, None] < 8
    given = pairs(lambda _, g: g)
    ours = np.where(unused, 0.0, given["embed.weight"][0])
    bias = given["enc.0.bias"][0]
    assert bias is not None
    given |= {"embed.weight": (ours, 0.25 * ours), "enc.0.bias": (bias, bias[::-1] ** 2)}
    causes = explain_gradients(given, NAMES)
    assert causes[0].code == "gradient_scale" and "0.25 x torch" in causes[0].evidence
    assert "channel_scale" not in {cause.code for cause in causes}


def test_channels_without_signal_are_no_factor() -> None:
    scale = np.where(np.arange(6) < 2, 0.0, np.linspace(2.0, 3.0, 6))[:, None]
    given = pairs(lambda name, g: (g * scale).astype(g.dtype) if name == "enc.0.weight" else g)
    ours, theirs = given["enc.0.weight"]
    assert ours is not None and theirs is not None
    given["enc.0.weight"] = (np.where(scale == 0.0, 0.0, ours), theirs)
    (cause,) = explain_gradients(given, NAMES)
    assert cause.code == "channel_scale" and "(2.4 to 3)" in cause.evidence


def test_factors_no_further_apart_than_what_they_leave_are_none() -> None:
    random = np.random.default_rng(4)

    def doubled(name: str, g: np.ndarray) -> np.ndarray:
        return 2 * g + 0.01 * random.normal(size=g.shape) if name == "enc.0.weight" else g

    given = pairs(doubled) | {"enc.1.weight": (np.eye(6), np.tri(6))}
    assert "channel_scale" not in {cause.code for cause in explain_gradients(given, NAMES)}


def test_a_factor_for_each_channel_of_one_element_explains_nothing() -> None:
    random = np.random.default_rng(5)
    torch, paddle = (random.standard_normal((1, 16)).astype(np.float32) for _ in range(2))
    assert explain_gradients({"fc.weight": (torch, paddle)}, ["fc.weight"]) == []
