"""Initial weights from a file: every tensor accounted for, nothing converted by guess."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from stepalign.coordinator.cases.weights_file import read_weights_file
from stepalign.protocol.errors import CaseError
from stepalign.protocol.specs import TensorSpec


def spec(name: str, *shape: int, dtype: str = "float32", role: str = "", aliases: tuple[str, ...] = ()) -> TensorSpec:
    return TensorSpec(
        name, "parameter", shape, dtype, True, "fc", "Linear", role or name.rpartition(".")[2], aliases=aliases
    )


SPECS = (spec("fc.weight", 3, 2), spec("fc.bias", 3))
ARRAYS = {"fc.weight": np.arange(6, dtype=np.float32).reshape(3, 2), "fc.bias": np.ones(3, np.float32)}


def saved(folder: Path, arrays: dict[str, Any], kind: str = "npz") -> Path:
    path = folder / f"weights.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, str(path))
    return path


def error_of(path: Path, specs: tuple[TensorSpec, ...] = SPECS) -> str:
    with pytest.raises(CaseError) as caught:
        read_weights_file(path, specs)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_both_kinds_of_file_give_the_tensors_bit_for_bit(tmp_path: Path, kind: str) -> None:
    found = read_weights_file(saved(tmp_path, ARRAYS, kind), SPECS)
    assert list(found) == ["fc.weight", "fc.bias"]
    for name, array in found.items():
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)
        assert array.flags.c_contiguous and array.flags.writeable


def test_floats_take_the_models_dtype(tmp_path: Path) -> None:
    path = saved(tmp_path, {"fc.weight": ARRAYS["fc.weight"].astype(np.float16), "fc.bias": np.ones(3, np.float64)})
    assert {array.dtype.name for array in read_weights_file(path, SPECS).values()} == {"float32"}


def test_a_tied_weight_may_be_there_under_any_or_all_of_its_names(tmp_path: Path) -> None:
    tied = (spec("embed.weight", 4, 2, aliases=("head.weight",)),)
    array = np.ones((4, 2), np.float32)
    for names in (["embed.weight"], ["head.weight"], ["embed.weight", "head.weight"]):
        assert list(read_weights_file(saved(tmp_path, dict.fromkeys(names, array)), tied)) == ["embed.weight"]


def test_a_count_of_batches_may_be_missing(tmp_path: Path) -> None:
    counted = (*SPECS, spec("bn.num_batches_tracked", dtype="int64", role="num_batches_tracked"))
    assert "bn.num_batches_tracked" not in read_weights_file(saved(tmp_path, ARRAYS), counted)
    with_count = {**ARRAYS, "bn.num_batches_tracked": np.array(3)}
    assert read_weights_file(saved(tmp_path, with_count), counted)["bn.num_batches_tracked"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc.bias": None, "fc.bia": np.ones(3)}, "no fc.bias; nearest: fc.bia"),
        ({"fc.bias": None}, "no fc.bias"),
        ({"other": np.ones(1), "another": np.ones(1)}, "the torch model has no another, other (2 left over)"),
        ({"fc.weight": np.ones((2, 3), np.float32)}, "fc.weight has shape [2, 3], the model's has [3, 2]"),
        ({"fc.bias": np.ones((3, 1), np.float32)}, "fc.bias has shape [3, 1], the model's has [3]"),
        ({"fc.bias": np.ones(3, np.int64)}, "fc.bias has dtype int64, the model's has float32"),
        ({"fc.bias": np.ones(3, np.complex64)}, "fc.bias has dtype complex64, the model's has float32"),
        ({"fc.bias": np.array(["a", "b", "c"])}, "fc.bias has dtype <U1, the model's has float32"),
    ],
)
def test_what_is_missing_left_over_or_otherwise_shaped_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    arrays = {name: array for name, array in {**ARRAYS, **changes}.items() if array is not None}
    assert message in error_of(saved(tmp_path, arrays))


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage of some length", b"PK\x03\x04", pickle.dumps(print), b"\xff" * 64])
def test_a_damaged_file_is_refused_and_no_pickle_is_run(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert "holds no" in error_of(path)


def test_objects_are_refused(tmp_path: Path) -> None:
    assert "holds no plain arrays" in error_of(saved(tmp_path, {"fc.weight": np.array([{}], object)}))


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "w.npz", "wb") as file:
        np.save(file, np.ones(3))
    assert "is a single .npy array" in error_of(tmp_path / "w.npz")


def test_a_dtype_that_numpy_lacks_is_refused_with_a_way_out(tmp_path: Path) -> None:
    header = b'{"fc.weight":{"dtype":"BF16","shape":[3,2],"data_offsets":[0,12]}}'
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    assert "save them as float32 or float64" in error_of(tmp_path / "w.safetensors")
