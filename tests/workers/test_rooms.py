"""Both twins copy tensors straight into the room that they are given, byte for byte, whatever the tensor's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .in_framework import run_code

CODE = """
from stepalign.workers.capture import own_room
if side == "torch":
    from stepalign.workers.torch_worker.tensors import to_numpy
else:
    from stepalign.workers.paddle_worker.tensors import to_numpy

given = []


def room(shape, dtype):
    array = own_room(shape, dtype)
    array.fill(1)
    given.append(array)
    return array


random = np.random.default_rng(0)
plain = random.standard_normal((3, 4, 5)).astype(np.float32)
cases = {
    "plain": tensor(plain),
    "scalar": tensor(np.array(2.5, np.float64)),
    "empty": tensor(np.zeros((0, 3), np.float32)),
    "integers": tensor(np.arange(7, dtype=np.int64)),
    "truth": tensor(np.array([True, False, True])),
    "half": tensor(plain.astype(np.float16)),
    "complex": tensor((plain + 1j * plain[::-1]).astype(np.complex64)),
    "part": tensor(plain)[1:, :, 2],
}
if side == "torch":
    cases["transposed"] = tensor(plain).permute(2, 0, 1)
    cases["conjugate"] = cases["complex"].conj()
    cases["parameter"] = nn.Parameter(tensor(plain))
else:
    cases["transposed"] = tensor(plain).transpose([2, 0, 1])
    cases["conjugate"] = cases["complex"].conj()
    cases["parameter"] = framework.create_parameter([3, 4, 5], "float32")
    cases["parameter"].set_value(plain)
for name, value in cases.items():
    copied = to_numpy(value, room)
    assert copied is given.pop() and not given, name
    assert copied.flags.c_contiguous and copied.flags.writeable
    results[name] = copied
"""


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_tensors_of_any_layout_are_copied_into_their_room(side: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    _, saved = run_code(request.getfixturevalue(f"{side}_python"), side, CODE, tmp_path)
    found = np.load(saved)
    plain = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    both = (plain + 1j * plain[::-1]).astype(np.complex64)
    expected = {
        "plain": plain, "scalar": np.array(2.5), "empty": np.zeros((0, 3), np.float32), "integers": np.arange(7),
        "truth": np.array([True, False, True]), "half": plain.astype(np.float16), "complex": both,
        "part": plain[1:, :, 2], "transposed": plain.transpose(2, 0, 1), "conjugate": both.conj(), "parameter": plain,
    }  # fmt: skip
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
