"""Arrays on the wire: bytes, shapes and dtypes exact for every kind of array that numpy makes."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
import pytest

from stepalign.protocol import tensors
from stepalign.protocol.errors import ProtocolError
from stepalign.protocol.framing import decode, encode
from stepalign.protocol.messages import Weights
from stepalign.protocol.tensors import ALIGNMENT, DTYPES, LARGE_SIZE_BYTES, FrameReader, FrameWriter, c_ordered, digest

BASE = np.arange(60, dtype=np.float64).reshape(3, 4, 5) / 7
LARGE = np.random.default_rng(0).normal(size=(200, 100))


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def misaligned(array: np.ndarray) -> np.ndarray:
    buffer = bytearray(array.nbytes + 1)
    moved = np.frombuffer(buffer, array.dtype, array.size, 1).reshape(array.shape)
    moved[...] = array
    assert not moved.flags.aligned
    return moved


HARD = {
    "0-d": np.array(2.5),
    "0-d integer": np.array(-3, np.int8),
    "empty": np.zeros(0),
    "empty with lengths": np.zeros((3, 0, 5), np.float32),
    "one element in many dimensions": np.ones((1,) * 8),
    "32 dimensions": np.ones((1,) * 32),
    "F order": np.asfortranarray(BASE),
    "transposed": BASE.T,
    "permuted": BASE.transpose(1, 2, 0),
    "slice": BASE[:, 1:3, ::2],
    "every other row": BASE[::2],
    "negative strides": BASE[::-1, :, ::-1],
    "negative stride of a vector": np.arange(10)[::-1],
    "broadcast": np.broadcast_to(np.arange(3.0), (4, 3)),
    "big-endian": BASE.astype(">f8"),
    "big-endian integer": np.arange(5, dtype=">i2"),
    "big-endian F order": np.asfortranarray(BASE.astype(">f4")),
    "read-only": read_only(BASE),
    "misaligned": misaligned(BASE),
    "bool": BASE > 3,
    "bool slice": (BASE > 3)[:, ::2],
    "complex": BASE + 1j * BASE[::-1],
    "long long": np.arange(3, dtype=np.longlong),
    "special values": np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.0, 5e-324]),
    "NaN payload": np.array([0x7FF8000000000123, 0xFFF0000000000001], np.uint64).view(np.float64),
    "large": LARGE,
    "large F order": np.asfortranarray(LARGE),
    "large slice": LARGE[::-1, ::2],
    "large read-only": read_only(LARGE),
    "as large as a frame of its own": np.zeros(LARGE_SIZE_BYTES, np.uint8),
    "just less": np.zeros(LARGE_SIZE_BYTES - 1, np.uint8),
}


def round_trip(array: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    frames = encode(Weights({"a": array}))
    message = decode([bytes(memoryview(frame).cast("B")) for frame in frames])
    assert isinstance(message, Weights)
    return message.tensors["a"], frames


@pytest.mark.parametrize("name", HARD)
def test_an_array_arrives_with_its_shape_dtype_and_bytes(name: str) -> None:
    array = HARD[name]
    got, frames = round_trip(array)
    assert got.shape == array.shape
    assert got.dtype == DTYPES[array.dtype.name]
    assert got.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
    assert got.flags.c_contiguous and got.flags.aligned and not got.flags.writeable
    assert len(frames) == (3 if array.nbytes >= LARGE_SIZE_BYTES else 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_every_dtype_arrives(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
    np.testing.assert_array_equal(round_trip(np.asarray(array))[0], array, strict=True)


@pytest.mark.parametrize(
    "array",
    [
        np.array([None]),
        np.array(["a"]),
        np.array([b"a"]),
        np.zeros(1, "M8[s]"),
        np.zeros(1, "m8[s]"),
        np.zeros(1, [("a", "f4")]),
        np.zeros(1, "V2"),
        np.zeros(1, np.longdouble),
    ],
    ids=lambda array: str(array.dtype),
)
def test_a_dtype_without_a_name_on_the_wire_is_refused_by_name(array: np.ndarray) -> None:
    with pytest.raises(ProtocolError, match="cannot be sent: expected one of bool, int8"):
        encode(Weights({"a": array}))


def test_more_dimensions_than_the_reader_takes_are_refused_by_the_sender() -> None:
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("this numpy has no such array")
    with pytest.raises(ProtocolError, match="33 dimensions"):
        encode(Weights({"a": np.ones((1,) * 33)}))


def test_small_arrays_share_one_aligned_frame_and_large_ones_have_their_own() -> None:
    arrays = {"a": np.ones(3, np.uint8), "big": LARGE, "b": np.ones(100), "c": np.array(1.0), "big2": LARGE.T}
    frames = encode(Weights(arrays))
    assert len(frames) == 1 + 1 + 2
    assert len(memoryview(frames[1]).cast("B")) % ALIGNMENT == 0
    message = decode(frames)
    assert isinstance(message, Weights)
    for name, array in arrays.items():
        np.testing.assert_array_equal(message.tensors[name], array, strict=True)


def test_large_arrays_in_c_order_are_not_copied() -> None:
    frames = encode(Weights({"a": LARGE}))
    assert np.shares_memory(np.frombuffer(frames[2], np.uint8), LARGE)
    message = decode(frames)
    assert isinstance(message, Weights) and np.shares_memory(message.tensors["a"], LARGE)


def test_a_message_without_arrays_is_one_frame() -> None:
    assert len(encode(Weights({}))) == 1


def test_only_large_arrays_leave_an_empty_shared_frame() -> None:
    frames = encode(Weights({"a": LARGE}))
    assert len(frames) == 3 and len(frames[1]) == 0


def test_a_misaligned_frame_gives_aligned_arrays() -> None:
    writer = FrameWriter()
    header = writer.add(BASE)
    moved = memoryview(bytearray(b"x") + writer.frames()[0])[1:]
    got = FrameReader([moved]).get(header, "a")
    assert got.flags.aligned
    np.testing.assert_array_equal(got, BASE)


def test_c_ordered_does_not_copy_what_is_ordered_already() -> None:
    assert np.shares_memory(c_ordered(BASE), BASE)


HEADER = [0, 0, "float64", [2]]
WRONG_HEADERS = {
    "a: expected an array header": [None, 3, {}, [], [0, 0, "float64"], [0, 0, "float64", [2], 5]],
    "a: frame .* is not one of the 2 received": [[2, *HEADER[1:]], [-2, *HEADER[1:]], [True, *HEADER[1:]], [0.0, *HEADER[1:]]],
    "a: offset .* is not a multiple of 64": [[0, 1, *HEADER[2:]], [0, -64, *HEADER[2:]], [0, "0", *HEADER[2:]]],
    "a: dtype .* is not one of bool": [[0, 0, name, [2]] for name in ("object", "O", "<f8", "float128", "V2", 3, None, ["f"])],
    "a: a shape is a list": [[0, 0, "float64", shape] for shape in (2, "2", None, {"2": 2}, [1] * 33)],
    "is not a length of a dimension": [
        [0, 0, "float64", shape] for shape in ([-1], [1.0], [True], ["2"], [None], [[2]], [1 << 48], [2, -2])
    ],
    "needs .* bytes, but frame": [
        [0, 0, "float64", [9]], [0, 64, "float64", [1]], [0, 1 << 40, "uint8", [1]], [0, 0, "uint8", [1 << 47]],
        [0, 0, "complex128", [1 << 40, 1 << 40, 1 << 40]], [1, 0, "float64", [1]], [1, 64, "uint8", [8]],
    ],
    "a: .* is not a shape|array is too big|needs": [
        [0, 0, "float64", [0, 1 << 47, 1 << 47]], [0, 0, "uint8", [0, *[1 << 47] * 20]],
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("header", "message"),
    [(header, message) for message, headers in WRONG_HEADERS.items() for header in headers],
    ids=str,
)
def test_a_wrong_header_is_refused_with_the_fields_path(header: Any, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        FrameReader([bytes(64), bytes(16)]).get(header, "a")


def test_a_promise_of_gigabytes_is_refused_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("allocated")

    monkeypatch.setattr(tensors.np, "empty", refuse)
    monkeypatch.setattr(tensors.np, "frombuffer", refuse)
    with pytest.raises(ProtocolError, match="needs 8589934592 bytes, but frame 0 has 64 at 0"):
        FrameReader([bytes(64)]).get([0, 0, "float64", [1 << 30]], "a")


def test_bytes_are_given_to_one_array_only_so_that_no_message_grows_when_it_is_read() -> None:
    reader = FrameReader([bytes(128), bytes(16)])
    reader.get([0, 0, "float64", [8]], "a")
    reader.get([0, 64, "float64", [8]], "b")
    with pytest.raises(ProtocolError, match="c: the bytes of frame 0 were given to another array already"):
        reader.get([0, 0, "float64", [1]], "c")
    reader.get([1, 0, "float64", [2]], "d")
    with pytest.raises(ProtocolError, match="e: the bytes of frame 1 were given to another array already"):
        reader.get([1, 0, "float64", [2]], "e")
    reader.get([0, 0, "float64", [0]], "nothing takes nothing")


def test_a_frame_that_no_header_uses_is_refused() -> None:
    frames = encode(Weights({"a": LARGE}))
    with pytest.raises(ProtocolError, match=r"frames \[2\] of 3 belong to no array"):
        decode([*frames, b"more"])


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("name", {"y": np.zeros(4, np.float32)}),
        ("dtype", {"x": np.zeros(4, np.int32)}),
        ("width", {"x": np.zeros(4, np.float64)}),
        ("shape", {"x": np.zeros((2, 2), np.float32)}),
        ("one more dimension", {"x": np.zeros((4, 1), np.float32)}),
        ("length", {"x": np.zeros(5, np.float32)}),
        ("minus zero", {"x": np.array([0, 0, -0.0, 0], np.float32)}),
        ("one more", {"x": np.zeros(4, np.float32), "z": np.zeros(0)}),
        ("nothing", {}),
    ],
)
def test_a_digest_depends_on_names_dtypes_shapes_and_every_bit(name: str, changed: dict[str, np.ndarray]) -> None:
    assert digest(changed) != digest({"x": np.zeros(4, np.float32)})


def test_a_digest_depends_on_the_payload_of_a_nan_and_on_the_order_of_elements() -> None:
    quiet, other = (np.array([bits], np.uint32).view(np.float32) for bits in (0x7FC00000, 0x7FC00001))
    assert digest({"x": quiet}) != digest({"x": other})
    assert digest({"x": np.array([1, 2])}) != digest({"x": np.array([2, 1])})
    assert digest({"x": BASE}) != digest({"x": BASE.T.reshape(BASE.shape)})


def test_a_digest_keeps_names_and_contents_apart() -> None:
    assert digest({"a": np.zeros(1), "b": np.zeros(1)}) != digest({"ab": np.zeros(2)})
    assert digest({"1:x": np.zeros(1)}) != digest({"x": np.zeros(1)})


def test_a_digest_does_not_depend_on_the_order_of_names_nor_on_memory_layout() -> None:
    assert digest({"a": BASE, "b": LARGE}) == digest({"b": LARGE, "a": BASE})
    assert digest({"a": np.asfortranarray(BASE)}) == digest({"a": BASE}) == digest({"a": BASE.astype(">f8")})
    assert digest({"a": misaligned(BASE)}) == digest({"a": BASE})


def test_a_digest_is_the_same_on_every_machine() -> None:
    described = b"1:x:int32:(2, 3):" + b"".join(struct.pack("<i", number) for number in range(6))
    assert digest({"x": np.arange(6, dtype=">i4").reshape(2, 3)}) == hashlib.sha256(described).hexdigest()
