"""Batches from every source, the same bytes at every asking; every bad source gets one message."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.cases.batches import BatchSource, batch_sizes
from stepalign.coordinator.cases.loading import load_case
from stepalign.protocol.errors import CaseError
from stepalign.protocol.tensors import digest

GENERATOR = """
import numpy as np

def batches(case):
    for step in range(case.options.get("count", 1000)):
        yield {"x": np.full((2, 3), step, np.float32), "y": np.arange(2)}
"""


def source_of(folder: Path, *assignments: str) -> BatchSource:
    return BatchSource(load_case(folder, assignments))


def error_of(folder: Path, *assignments: str) -> str:
    with pytest.raises(CaseError) as caught:
        source = source_of(folder, *assignments)
        source[2]
    return str(caught.value)


def pickled() -> bytes:
    class Trap:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("a pickle was run",))

    return pickle.dumps({"x": Trap()})


def test_an_npz_is_one_batch_for_every_step(make_case: Any) -> None:
    batch = {"ids": np.arange(12).reshape(4, 3), "y": np.float32(3), "empty": np.zeros((0, 5))}
    source = source_of(make_case(files={"data.npz": batch}))
    assert source[0] is source[9]
    assert source.digest(0) == source.digest(9) == digest({name: np.asarray(array) for name, array in batch.items()})
    assert {name: array.dtype for name, array in source[0].items()} == {
        "ids": np.int64,
        "y": np.float32,
        "empty": np.float64,
    }
    assert source[0]["y"].shape == () and source[0]["empty"].shape == (0, 5)


def test_named_npy_files_are_one_batch_for_every_step(make_case: Any) -> None:
    ids = np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))
    folder = make_case(
        data='arrays = { ids = "a.npy", y = "sub/b.npy" }', files={"a.npy": ids, "sub/b.npy": np.ones(2)}
    )
    batch = source_of(folder)[0]
    np.testing.assert_array_equal(batch["ids"], ids)
    assert batch["ids"].flags.c_contiguous and list(batch) == ["ids", "y"]


def test_a_script_yields_a_batch_for_each_step_and_the_same_again(make_case: Any) -> None:
    source = source_of(make_case(data='source = "data.py"', files={"data.py": GENERATOR}))
    assert [source[step]["x"][0, 0] for step in (2, 0, 1, 2)] == [2, 0, 1, 2]
    assert source.digest(1) != source.digest(0)


def test_an_array_that_the_script_changes_later_keeps_its_bytes_here(make_case: Any) -> None:
    script = (
        "import numpy as np\n"
        "def batches(case):\n"
        "    x = np.zeros(3)\n"
        "    while True:\n"
        "        x += 1\n"
        "        yield {'x': x}\n"
    )
    source = source_of(make_case(data='source = "data.py"', files={"data.py": script}))
    assert [source[step]["x"][0] for step in range(3)] == [1, 2, 3]


def test_a_script_may_return_a_list(make_case: Any) -> None:
    script = "import numpy as np\ndef batches(case):\n    return [{'x': np.ones(2)}] * case.steps\n"
    assert source_of(make_case(data='source = "data.py"', files={"data.py": script}))[2]["x"].shape == (2,)


def test_a_script_imports_its_neighbours(make_case: Any) -> None:
    files = {"data.py": "from loaders_of_this_case import batches\n", "loaders_of_this_case.py": GENERATOR}
    assert source_of(make_case(data='source = "data.py"', files=files))[0]["x"].shape == (2, 3)


def test_a_script_that_is_named_like_a_library_takes_nothing_from_it(make_case: Any) -> None:
    import json

    folder = make_case(data='source = "json.py"', files={"json.py": GENERATOR})
    assert source_of(folder)[0]["x"].shape == (2, 3)
    import sys

    assert sys.modules["json"] is json


@pytest.mark.parametrize(("dtype", "expected"), [("float32", "float32"), ("float64", "float64")])
def test_floats_are_widened_in_a_float64_case_and_integers_kept(make_case: Any, dtype: str, expected: str) -> None:
    files = {"data.npz": {"x": np.ones(2, np.float32), "ids": np.ones(2, np.int32), "flag": np.array([True])}}
    batch = source_of(make_case(f'dtype = "{dtype}"', files=files))[0]
    assert [batch[name].dtype.name for name in ("x", "ids", "flag")] == [expected, "int32", "bool"]


def test_too_few_batches_are_known_before_a_step_and_tell_how_many_there_are(make_case: Any) -> None:
    folder = make_case(data='source = "data.py"', files={"data.py": GENERATOR})
    with pytest.raises(
        CaseError, match=r"data.py: batches\(case\) gave 2 batches, the case runs 3 steps: yield at least 3"
    ):
        source_of(folder, "count=2")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("batches = 3\n", "has no function batches(case); it defines: none"),
        ("def batch(case): pass\n", "has no function batches(case); it defines: batch"),
        ("def batches(case): return 3\n", "batches(case) of data.py gave int: yield one dict of numpy arrays a step"),
        (
            "def batches(case): raise ValueError('no file')\n",
            "batches(case) of data.py raised ValueError: no file\nTraceback",
        ),
        ("def batches(case):\n    yield {'x': 1 / 0}\n", "batches(case) of data.py, batch 0, raised ZeroDivisionError"),
        ("def batches(case) return\n", "importing data.py raised SyntaxError"),
        ("import nothing_of_this_name\n", "importing data.py raised ModuleNotFoundError: No module named 'nothing_of_"),
        ("import sys\nsys.exit(4)\n", "importing data.py raised SystemExit: 4"),
        ("def batches(case):\n    yield [1]\n", "data.py, batch 0: a batch is a dict of numpy arrays, got list"),
        ("def batches(case):\n    yield {}\n", "data.py, batch 0: a batch is a dict of numpy arrays, got an empty one"),
        ("def batches(case):\n    yield {3: 4}\n", "data.py, batch 0: a batch's keys are strings, got 3"),
        ("def batches(case):\n    yield {'x': [1, 2]}\n", "data.py, batch 0: 'x' is a list, expected a numpy array"),
        (
            "import numpy as np\ndef batches(case):\n    yield {'x': np.array([[1], [1, 2]], object)}\n",
            "data.py, batch 0: 'x' has dtype object, expected one of bool,",
        ),
        (
            "import numpy as np\ndef batches(case):\n    yield {'x': np.array(['a'])}\n",
            "data.py, batch 0: 'x' has dtype <U1, expected one of",
        ),
        (
            "import numpy as np\ndef batches(case):\n    yield {'x': np.ones(1)}\n    yield {'z': np.ones(1)}\n",
            "data.py, batch 1: keys ['z'] are not those of batch 0, ['x']",
        ),
    ],
)
def test_a_bad_script_gets_one_message(make_case: Any, script: str, message: str) -> None:
    folder = make_case(data='source = "data.py"', files={"data.py": script})
    text = error_of(folder)
    assert message in text
    assert not [name for name in ("cases/batches.py", "protocol/script.py") if name in text], "trimmed to their file"


def test_a_traceback_begins_in_the_users_file(make_case: Any) -> None:
    script = "def helper():\n    raise ValueError('no file')\n\ndef batches(case):\n    return helper()\n"
    text = error_of(make_case(data='source = "data.py"', files={"data.py": script}))
    frames = [line for line in text.splitlines() if line.startswith("  File")]
    assert ["in batches" in frames[0], "in helper" in frames[1], len(frames)] == [True, True, 2]


def npz_with(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def damaged_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.random.default_rng(0).normal(size=1000))
    content = bytearray(buffer.getvalue())
    content[200:400] = bytes(200)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an .npz archive"),
        (b"garbage", "is not an .npz archive"),
        (b"PK\x03\x04garbage", "is not an .npz archive"),
        (npy(np.ones(3)), "is a single .npy array: name it under data.arrays"),
        (pickled(), "is not an .npz archive"),
        (npz_with("x.npy", npy(np.array([{}], object), allow_pickle=True)), "'x' is not a plain array (Object arrays"),
        (npz_with("x.npy", npy(np.ones(100))[:-50]), "data.npz"),
        (npz_with("x.txt", b"abc"), "'x.txt' has dtype |S3, expected one of"),
        (npz_with("x.npy", npy(np.array(["a"]))), "'x' has dtype <U1, expected one of"),
        (npz_with("x.npy", npy(np.zeros(1, "M8[s]"))), "'x' has dtype datetime64[s], expected one of"),
        (damaged_npz(), "is not an .npz archive of plain arrays"),
    ],
)
def test_a_bad_npz_gets_one_message_and_no_pickle_is_run(make_case: Any, content: bytes, message: str) -> None:
    assert message in error_of(make_case(files={"data.npz": content}))


def test_an_npz_without_arrays_is_refused(make_case: Any) -> None:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    assert "data.npz holds no arrays" in error_of(make_case(files={"data.npz": buffer.getvalue()}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a plain .npy array"),
        (b"garbage", "is not a plain .npy array"),
        (pickled(), "is not a plain .npy array"),
        (npy(np.array([{}], object), allow_pickle=True), "is not a plain .npy array"),
        (npz_with("x.npy", npy(np.ones(1))), "is an .npz archive, expected one .npy array"),
    ],
)
def test_a_bad_npy_gets_one_message_and_no_pickle_is_run(make_case: Any, content: bytes, message: str) -> None:
    text = error_of(make_case(data='arrays = { ids = "ids.npy" }', files={"ids.npy": content}))
    assert text.startswith("data.arrays.ids: ") and message in text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('source = "nowhere.npz"', "data.source: no file"),
        ('source = "nowhere.py"', "data.source: no file"),
        ('source = "data.csv"', "data.source: expected a .npz or .py file, got 'data.csv'"),
        ('arrays = { ids = "nowhere.npy" }', "data.arrays.ids: no file"),
    ],
)
def test_a_missing_file_is_named(make_case: Any, data: str, message: str) -> None:
    assert message in error_of(make_case(data=data))


@pytest.fixture
def no_torch_module() -> Iterator[None]:
    """Have no module named torch, before and after."""
    sys.modules.pop("torch", None)
    yield
    sys.modules.pop("torch", None)


@pytest.mark.usefixtures("no_torch_module")
def test_data_that_imports_a_framework_is_refused(make_case: Any) -> None:
    files = {"torch.py": "", "data.py": "import torch\n" + GENERATOR}
    text = error_of(make_case(data='source = "data.py"', files=files))
    assert "imports torch: batches belong to the coordinator and are made with numpy alone" in text


@pytest.mark.usefixtures("no_torch_module")
def test_data_is_not_blamed_for_a_framework_that_the_caller_has_imported(make_case: Any) -> None:
    sys.modules["torch"] = types.ModuleType("torch")
    source = source_of(make_case(data='source = "data.py"', files={"data.py": GENERATOR}))
    assert set(source[0]) == {"x", "y"}


def test_batch_sizes_are_the_leading_lengths_most_common_first() -> None:
    assert batch_sizes({"x": np.ones((4, 2)), "y": np.ones(4), "table": np.ones((9, 1)), "scale": np.array(1.0)}) == [
        4,
        9,
    ]
