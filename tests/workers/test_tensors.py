"""Both twins make tensors of arrays: the same bytes, a memory of their own, and nothing kept of a tensor that is gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .in_framework import run_code

IMPORT = """
if side == "torch":
    from stepalign.workers.torch_worker.tensors import copy_tensor, from_numpy, number_to_numpy, to_numpy
else:
    from stepalign.workers.paddle_worker.tensors import copy_tensor, from_numpy, number_to_numpy, to_numpy
"""

BYTES = """
DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex64", "complex128"]
for dtype in DTYPES:
    plain = (np.arange(24).reshape(2, 3, 4) % 5).astype(dtype)
    sources = {
        "plain": plain, "scalar": plain[0, 1, 2].reshape(()), "empty": plain[:, :0], "strided": plain[:, ::2, ::-1],
        "transposed": plain.transpose(2, 0, 1), "big_endian": plain.astype(plain.dtype.newbyteorder(">")),
        "fixed": np.frombuffer(plain.tobytes(), dtype).reshape(plain.shape),
    }
    for name, source in sources.items():
        made = from_numpy(source)
        results[f"{dtype}-{name}"] = to_numpy(made)
        results[f"{dtype}-{name}_copied"] = to_numpy(copy_tensor(made))
        results[f"{dtype}-{name}_copied-source"] = source.astype(source.dtype.newbyteorder("="))
        results[f"{dtype}-{name}-source"] = source.astype(source.dtype.newbyteorder("="))
"""

NUMBERS = """
for dtype in ("float16", "float32", "float64"):
    for number, value in enumerate([0.0, -0.0, 0.1, -3.7e-5, 6.0e4, 1e-7, np.inf, -np.inf, np.nan]):
        for shape in ((), (1,)):
            made = from_numpy(np.full(shape, value, dtype))
            results[f"{dtype}-{number}{len(shape)}"] = number_to_numpy(made)
            results[f"{dtype}-{number}{len(shape)}-source"] = np.full((), value, dtype)
"""

COPIES = """
kept = from_numpy(np.arange(4, dtype=np.float32))
given = copy_tensor(kept)
given.mul_(2) if side == "torch" else given.scale_(2.0)
if side == "torch":
    given.requires_grad_()
    results["leaf"] = kept.is_leaf and not kept.requires_grad and not copy_tensor(kept).requires_grad
else:
    given.stop_gradient = False
    results["leaf"] = kept.stop_gradient and copy_tensor(kept).stop_gradient
results["given"], results["kept"] = to_numpy(given), to_numpy(kept)
"""

OWN_MEMORY = """
def trained(array):
    made = from_numpy(array)
    if side == "torch":
        return made.requires_grad_()
    assert made.stop_gradient
    made.stop_gradient = False
    return made

def double(made):
    made.mul_(2) if side == "torch" else made.scale_(2.0)

source = np.ones(4, np.float32)
given, weight = from_numpy(source), trained(source)
source[:] = 7
(weight * given).sum().backward()
results["gradient"] = to_numpy(weight.grad)
double(given)
results["given"], results["source"] = to_numpy(given), source
product = (trained(source) * given).sum()
double(given)
try:
    product.backward()
    results["refused"] = False
except RuntimeError as error:
    results["refused"] = "version" in str(error)
"""

GROWTH = """
def own_memory_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon"))

array = np.ones((16, 20), np.float32)
for _ in range(2000):
    from_numpy(array)
before = own_memory_bytes()
for _ in range(20_000):
    from_numpy(array)
results["bytes_a_call"] = (own_memory_bytes() - before) / 20_000
"""


def found_by(code: str, side: str, request: pytest.FixtureRequest, folder: Path) -> dict[str, np.ndarray]:
    """Run ``code`` with the side's framework; return its results."""
    _, saved = run_code(request.getfixturevalue(f"{side}_python"), side, IMPORT + code, folder)
    with np.load(saved) as results:
        return dict(results)


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_tensors_of_any_array_have_its_bytes(side: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found = found_by(BYTES, side, request, tmp_path)
    assert len(found) == 4 * 7 * 11
    for name in [name for name in found if not name.endswith("-source")]:
        np.testing.assert_array_equal(found[name], found[f"{name}-source"], name, strict=True)


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_a_number_keeps_its_bits(side: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found = found_by(NUMBERS, side, request, tmp_path)
    assert len(found) == 2 * 2 * 9 * 3
    for name in [name for name in found if not name.endswith("-source")]:
        assert found[name].tobytes() == found[f"{name}-source"].tobytes(), name
        np.testing.assert_array_equal(found[name], found[f"{name}-source"], name, strict=True)


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_what_is_done_to_a_copy_is_not_done_to_the_tensor(side: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found = found_by(COPIES, side, request, tmp_path)
    assert found["given"].tolist() == [0.0, 2.0, 4.0, 6.0]
    assert found["kept"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert found["leaf"]


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_a_tensor_shares_nothing_with_its_array_and_takes_part_in_autograd(
    side: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found = found_by(OWN_MEMORY, side, request, tmp_path)
    assert found["gradient"].tolist() == [1.0] * 4
    assert found["given"].tolist() == [2.0] * 4
    assert found["source"].tolist() == [7.0] * 4
    assert found["refused"], "a tensor that the backward pass needs was changed in place unseen"


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_tensors_that_are_gone_leave_no_memory_behind(side: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    assert found_by(GROWTH, side, request, tmp_path)["bytes_a_call"] < 10
