"""Which tensor is which: by name and by module type, never because a shape fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.cases.case import WeightsSection
from stepalign.coordinator.sessions.naming import NameMap, match_names, rename
from stepalign.protocol.errors import CaseError
from stepalign.protocol.specs import ModuleSpec, TensorSpec

LAYOUTS = {"torch": "out_in", "paddle": "in_out"}


def tensor(
    name: str,
    *shape: int,
    module_type: str = "Module",
    layout: str = "",
    aliases: tuple[str, ...] = (),
    kind: str = "parameter",
    role: str = "",
    dtype: str = "float32",
) -> TensorSpec:
    module, _, leaf = name.rpartition(".")
    return TensorSpec(name, kind, shape, dtype, True, module, module_type, role or leaf, layout, aliases, name)


def linear(side: str, name: str, inputs: int, outputs: int) -> list[TensorSpec]:
    shape = (outputs, inputs) if side == "torch" else (inputs, outputs)
    return [
        tensor(f"{name}.weight", *shape, module_type="Linear", layout=LAYOUTS[side]),
        tensor(f"{name}.bias", outputs, module_type="Linear"),
    ]


def module(path: str, kind: str = "Module") -> ModuleSpec:
    return ModuleSpec(path, kind, kind, False)


def values(specs: list[TensorSpec], seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {spec.name: random.normal(size=spec.shape).astype(spec.dtype) for spec in specs}


def pairs(names: NameMap) -> list[tuple[str, str, str]]:
    return [(piece.name, piece.torch.tensor, piece.paddle.tensor) for piece in names.pieces]


def error_of(*arguments: Any) -> str:
    with pytest.raises(CaseError) as caught:
        match_names(*arguments)
    return str(caught.value)


def round_trip(names: NameMap, torch: list[TensorSpec], paddle: list[TensorSpec]) -> dict[str, np.ndarray]:
    """Carry random weights to paddle and back; return what paddle got."""
    original = values(torch)
    carried = names.carry("torch", original, paddle)
    assert {name: array.shape for name, array in carried.items()} == {spec.name: spec.shape for spec in paddle}
    back = names.carry("paddle", carried, torch)
    for spec in torch:
        np.testing.assert_array_equal(back[spec.name], original[spec.name], strict=True)
    ours, theirs = names.canonical("torch", original), names.canonical("paddle", carried)
    assert list(ours) == list(theirs) == [piece.name for piece in names.pieces]
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], strict=True)
    return carried


def test_equal_names_match_and_linear_weights_are_transposed_by_their_module_type() -> None:
    torch, paddle = linear("torch", "fc", 2, 3), linear("paddle", "fc", 2, 3)
    names = match_names(torch, paddle, WeightsSection())
    carried = round_trip(names, torch, paddle)
    np.testing.assert_array_equal(carried["fc.weight"], values(torch)["fc.weight"].T)


def test_a_square_linear_weight_is_transposed_although_its_shape_fits_as_it_is() -> None:
    torch, paddle = linear("torch", "fc", 3, 3), linear("paddle", "fc", 3, 3)
    carried = round_trip(match_names(torch, paddle, WeightsSection()), torch, paddle)
    np.testing.assert_array_equal(carried["fc.weight"], values(torch)["fc.weight"].T)


def test_a_matrix_that_is_no_linear_layers_is_never_transposed() -> None:
    torch = [tensor("table.weight", 3, 3, module_type="Embedding")]
    carried = round_trip(match_names(torch, torch, WeightsSection()), torch, torch)
    np.testing.assert_array_equal(carried["table.weight"], values(torch)["table.weight"])


def test_a_matrix_that_would_only_fit_transposed_is_an_error_that_names_the_key() -> None:
    text = error_of([tensor("own.kernel", 3, 2)], [tensor("own.kernel", 2, 3)], WeightsSection())
    assert "torch's own.kernel [3, 2] is paddle's own.kernel [2, 3] by name, which should be [3, 2]" in text
    assert 'add "own.kernel" to weights.transpose' in text


@pytest.mark.parametrize("glob", ["own.kernel", "own.*", "*kernel"])
def test_transpose_takes_globs_of_torch_names(glob: str) -> None:
    torch, paddle = [tensor("own.kernel", 3, 2)], [tensor("own.kernel", 2, 3)]
    round_trip(match_names(torch, paddle, WeightsSection(transpose=(glob,))), torch, paddle)


def test_another_shape_under_the_same_name_is_an_error() -> None:
    text = error_of(linear("torch", "fc", 2, 3), linear("paddle", "fc", 2, 4), WeightsSection())
    assert "torch's fc.weight [3, 2] is paddle's fc.weight [2, 4] by name, which should be [2, 3]" in text


def test_rename_rules_apply_in_order_to_torch_names() -> None:
    rules = ((r"^encoder\.layers\.(\d+)", r"enc.\1"), ("^enc", "e"), ("LayerNorm", "norm"))
    assert rename("encoder.layers.3.LayerNorm.weight", rules) == "e.3.norm.weight"
    torch, paddle = linear("torch", "encoder.layers.0", 2, 2), linear("paddle", "e.0", 2, 2)
    names = match_names(torch, paddle, WeightsSection(rename=rules))
    assert pairs(names)[0] == ("encoder.layers.0.weight", "encoder.layers.0.weight", "e.0.weight")
    assert names.paddle_name("encoder.layers.0.bias") == "e.0.bias"
    round_trip(names, torch, paddle)


@pytest.mark.parametrize("replacement", [r"\1", r"\g<x>", "\\"])
def test_a_replacement_that_is_none_is_an_error_of_the_case(replacement: str) -> None:
    with pytest.raises(CaseError, match="weights.rename: 'fc' cannot be replaced by"):
        rename("fc.weight", (("fc", replacement),))


def test_two_tensors_renamed_to_one_name_are_an_error() -> None:
    torch = [*linear("torch", "a", 2, 2), *linear("torch", "b", 2, 2)]
    text = error_of(torch, linear("paddle", "x", 2, 2), WeightsSection(rename=(("^[ab]", "x"),)))
    assert "weights.rename gives torch's a.weight and b.weight the same name x.weight" in text


def test_what_is_left_over_is_listed_with_the_nearest_names_of_the_other_side() -> None:
    torch = [*linear("torch", "encoder.fc", 2, 2), tensor("scale", 1)]
    paddle = [*linear("paddle", "encoder.fcs", 2, 2), tensor("temperature", 1)]
    lines = error_of(torch, paddle, WeightsSection()).splitlines()
    assert lines[0] == "weights: the two sides do not have the same parameters and buffers"
    assert "  torch only:  encoder.fc.weight; nearest on paddle: encoder.fcs.weight, encoder.fcs.bias" in lines
    assert "  torch only:  scale" in lines
    assert any(line.startswith("  paddle only: encoder.fcs.bias; nearest on torch: encoder.fc.bias") for line in lines)
    assert any(line.startswith("  paddle only: temperature") for line in lines)
    assert "[weights] rename" in lines[-1] and "[weights] ignore" in lines[-1]


def test_a_renamed_left_over_is_shown_under_both_names() -> None:
    text = error_of([tensor("a.b", 1)], [tensor("z", 1)], WeightsSection(rename=(("^a", "c"),)))
    assert "torch only:  a.b (renamed to c.b)" in text


@pytest.mark.parametrize(("torch", "paddle"), [([tensor("a", 1)], []), ([], [tensor("a", 1)])])
def test_nothing_on_one_side_is_an_error(torch: list[TensorSpec], paddle: list[TensorSpec]) -> None:
    assert "only:" in error_of(torch, paddle, WeightsSection())


def test_ignored_names_of_either_side_are_left_out() -> None:
    torch = [*linear("torch", "fc", 2, 3), tensor("position_ids", 5, kind="buffer")]
    paddle = [*linear("paddle", "fc", 2, 3), tensor("extra.table", 5)]
    names = match_names(torch, paddle, WeightsSection(ignore=("position_ids", "extra.*")))
    assert [piece.name for piece in names.pieces] == ["fc.weight", "fc.bias"]


def batch_norm(side: str) -> list[TensorSpec]:
    own = {"torch": ("running_mean", "running_var"), "paddle": ("_mean", "_variance")}[side]
    specs = [tensor("bn.weight", 4, module_type="BatchNorm2d"), tensor("bn.bias", 4, module_type="BatchNorm2d")]
    for name, role in zip(own, ("running_mean", "running_var")):
        aliases = (f"bn.{role}",) if side == "paddle" else ()
        specs.append(tensor(f"bn.{name}", 4, module_type="BatchNorm2d", kind="buffer", role=role, aliases=aliases))
    if side == "torch":
        count = tensor("bn.num_batches_tracked", module_type="BatchNorm2d", kind="buffer", dtype="int64")
        specs.append(count)
    return specs


def test_batch_norm_statistics_match_by_their_common_names_and_the_count_has_no_partner() -> None:
    torch, paddle = batch_norm("torch"), batch_norm("paddle")
    names = match_names(torch, paddle, WeightsSection())
    assert ("bn.running_var", "bn.running_var", "bn._variance") in pairs(names)
    assert "bn.num_batches_tracked" not in [piece.name for piece in names.pieces]
    statistics = names.canonical("paddle", values(paddle), "buffer")
    assert list(statistics) == ["bn.running_mean", "bn.running_var"]


def test_renamed_batch_norm_statistics_match_too() -> None:
    torch = [tensor("stem.bn.running_mean", 4, kind="buffer")]
    paddle = [tensor("head.bn._mean", 4, kind="buffer", aliases=("head.bn.running_mean",))]
    names = match_names(torch, paddle, WeightsSection(rename=(("^stem", "head"),)))
    assert pairs(names) == [("stem.bn.running_mean", "stem.bn.running_mean", "head.bn._mean")]


def fused_attention(width: int = 4) -> list[TensorSpec]:
    kind = "MultiheadAttention"
    return [
        tensor("attn.in_proj_weight", 3 * width, width, module_type=kind),
        tensor("attn.in_proj_bias", 3 * width, module_type=kind),
        *linear("torch", "attn.out_proj", width, width),
    ]


def split_attention(width: int = 4) -> list[TensorSpec]:
    return [
        spec
        for name in ("q_proj", "k_proj", "v_proj", "out_proj")
        for spec in linear("paddle", f"attn.{name}", width, width)
    ]


def test_a_fused_projection_is_split_in_thirds_and_each_is_transposed() -> None:
    torch, paddle = fused_attention(), split_attention()
    names = match_names(torch, paddle, WeightsSection())
    assert [piece.name for piece in names.pieces][:6] == [
        "attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight", "attn.q_proj.bias", "attn.k_proj.bias", "attn.v_proj.bias"
    ]  # fmt: skip
    carried = round_trip(names, torch, paddle)
    fused = values(torch)["attn.in_proj_weight"]
    np.testing.assert_array_equal(carried["attn.k_proj.weight"], fused[4:8].T)
    np.testing.assert_array_equal(carried["attn.v_proj.bias"], values(torch)["attn.in_proj_bias"][8:])


def test_a_fused_projection_with_a_third_missing_is_an_error() -> None:
    paddle = [spec for spec in split_attention() if "k_proj.weight" not in spec.name]
    text = error_of(fused_attention(), paddle, WeightsSection())
    assert "torch only:  attn.in_proj_weight" in text and "paddle only: attn.q_proj.weight" in text


def test_a_split_projection_of_torch_matches_the_split_one() -> None:
    kind = "MultiheadAttention"
    torch = [
        *(tensor(f"attn.{which}_proj_weight", 4, width, module_type=kind) for which, width in zip("qkv", (4, 6, 5))),
        tensor("attn.in_proj_bias", 12, module_type=kind),
    ]
    paddle = [
        spec for which, width in zip("qkv", (4, 6, 5)) for spec in linear("paddle", f"attn.{which}_proj", width, 4)
    ]
    names = match_names(torch, paddle, WeightsSection())
    assert [piece.name for piece in names.pieces][:3] == [
        "attn.q_proj_weight",
        "attn.k_proj_weight",
        "attn.v_proj_weight",
    ]
    round_trip(names, torch, paddle)


def test_a_renamed_fused_projection_is_split_under_its_new_name() -> None:
    torch = [tensor("layers.0.self_attn.in_proj_bias", 6, module_type="MultiheadAttention")]
    paddle = [tensor(f"block.0.attn.{which}_proj.bias", 2) for which in "qkv"]
    rules = ((r"^layers\.(\d+)\.self_attn", r"block.\1.attn"),)
    round_trip(match_names(torch, paddle, WeightsSection(rename=rules)), torch, paddle)


def test_weights_tied_on_both_sides_are_one_piece() -> None:
    torch = [tensor("embed.weight", 5, 2, module_type="Embedding", aliases=("head.weight",))]
    paddle = [tensor("embed.weight", 5, 2, module_type="Embedding", aliases=("decoder.weight",))]
    names = match_names(torch, paddle, WeightsSection())
    assert pairs(names) == [("embed.weight", "embed.weight", "embed.weight")] and names.untied == ()


def test_a_weight_tied_under_other_names_is_found_by_its_alias() -> None:
    torch = [tensor("embed.weight", 5, 2, aliases=("head.weight",))]
    paddle = [tensor("head.weight", 5, 2, aliases=("other.weight",))]
    assert pairs(match_names(torch, paddle, WeightsSection())) == [("embed.weight", "embed.weight", "head.weight")]


def test_a_weight_tied_on_torch_alone_goes_to_both_and_is_noted() -> None:
    torch = [tensor("embed.weight", 5, 2, module_type="Embedding", aliases=("head.weight",))]
    paddle = [tensor("embed.weight", 5, 2, module_type="Embedding"), tensor("head.weight", 2, 5, layout="in_out")]
    names = match_names(torch, paddle, WeightsSection())
    assert names.untied == ("embed.weight",)
    carried = round_trip(names, torch, paddle)
    np.testing.assert_array_equal(carried["head.weight"], carried["embed.weight"].T)


def test_a_weight_tied_on_paddle_alone_is_noted() -> None:
    torch = [tensor("embed.weight", 5, 2), tensor("head.weight", 5, 2)]
    paddle = [tensor("embed.weight", 5, 2, aliases=("head.weight",))]
    assert match_names(torch, paddle, WeightsSection()).untied == ("head.weight",)


def test_carrying_keeps_bytes_of_special_values_and_zero_dimensions() -> None:
    torch = [tensor("scale", kind="buffer", dtype="int64"), tensor("empty", 0, 3), tensor("odd", 4)]
    arrays = {
        "scale": np.array(1 << 60), "empty": np.zeros((0, 3), np.float32),
        "odd": np.array([np.nan, np.inf, -0.0, 1e-45], np.float32),
    }  # fmt: skip
    carried = match_names(torch, torch, WeightsSection()).carry("torch", arrays, torch)
    for name, array in arrays.items():
        assert carried[name].tobytes() == array.tobytes() and carried[name].shape == array.shape


def test_canonical_leaves_out_what_is_absent_and_other_kinds() -> None:
    torch, paddle = batch_norm("torch"), batch_norm("paddle")
    names = match_names(torch, paddle, WeightsSection())
    assert names.canonical("torch", {}) == {}
    assert list(names.canonical("torch", {"bn.bias": np.ones(4)})) == ["bn.bias"]
    assert list(names.canonical("torch", values(torch), "parameter")) == ["bn.weight", "bn.bias"]


def test_modules_are_paired_by_their_tensors_their_containers_and_their_renamed_paths() -> None:
    torch = linear("torch", "encoder.layers.0.fc", 2, 2)
    paddle = linear("paddle", "enc.block.0.fc", 2, 2)
    ours = [module(""), module("encoder"), module("encoder.layers"), module("encoder.layers.0"), module("encoder.layers.0.fc"),
            module("encoder.layers.0.act"), module("pool"), module("torch_only")]  # fmt: skip
    theirs = [module(""), module("enc"), module("enc.block"), module("enc.block.0"), module("enc.block.0.fc"),
              module("enc.block.0.act"), module("pool"), module("paddle_only")]  # fmt: skip
    weights = WeightsSection(rename=((r"^encoder\.layers", "enc.block"),))
    found = dict(match_names(torch, paddle, weights, ours, theirs).modules)
    assert found[""] == "" and found["pool"] == "pool"
    assert found["encoder.layers.0.fc"] == "enc.block.0.fc"
    assert found["encoder.layers.0"] == "enc.block.0"
    assert found["encoder.layers"] == "enc.block"
    assert found["encoder.layers.0.act"] == "enc.block.0.act"
    assert "torch_only" not in found and "paddle_only" not in found.values()


def test_a_fused_attention_module_is_paired_with_the_module_around_the_split_one() -> None:
    ours = [module(""), module("attn", "MultiheadAttention"), module("attn.out_proj", "Linear")]
    theirs = [
        module(""),
        module("attn"),
        *(module(f"attn.{name}", "Linear") for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
    ]
    found = dict(match_names(fused_attention(), split_attention(), WeightsSection(), ours, theirs).modules)
    assert found == {"": "", "attn": "attn", "attn.out_proj": "attn.out_proj"}
