"""Shared memory: tensors written once and read in place, room taken back when both are done, and no lie believed."""

from __future__ import annotations

import fcntl
import gc
import os
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepalign.protocol.errors import ProtocolError
from stepalign.protocol.framing import decode, encode
from stepalign.protocol.memory import Memory, inherit_memory, open_memory
from stepalign.protocol.messages import PROTOCOL_VERSION, Finish, SendWeights, Weights
from stepalign.protocol.tensors import IN_MEMORY, LARGE_SIZE_BYTES

SIZE_BYTES = 1 << 20
LARGE = LARGE_SIZE_BYTES // 4


def open_ends() -> tuple[Memory, Memory]:
    """Return the coordinator's end and the worker's."""
    ours, descriptors = open_memory(SIZE_BYTES)
    return ours, inherit_memory(",".join(str(number) for number in descriptors))


def random(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count, dtype=np.float32)


def test_a_large_tensor_lies_in_memory_and_no_frame_carries_it() -> None:
    ours, theirs = open_ends()
    array = random(LARGE)
    frames = encode(Weights({"w": array, "small": array[:3]}), theirs)
    assert sum(len(bytes(frame)) for frame in frames) < 1000
    message = decode(frames, ours)
    assert isinstance(message, Weights)
    np.testing.assert_array_equal(message.tensors["w"], array, strict=True)
    np.testing.assert_array_equal(message.tensors["small"], array[:3], strict=True)
    assert not message.tensors["w"].flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE|writeable"):
        message.tensors["w"].flags.writeable = True


def test_what_is_written_into_room_is_not_copied_again() -> None:
    ours, theirs = open_ends()
    room = theirs.arena.room((2, LARGE), "float64")
    assert room is not None and room.shape == (2, LARGE) and room.dtype == np.float64
    frames = encode(Weights({"w": room}), theirs)
    room[:] = 7.0
    message = decode(frames, ours)
    assert isinstance(message, Weights) and (message.tensors["w"] == 7.0).all()
    assert theirs.arena.used_bytes() == room.nbytes


def test_another_order_of_what_lies_in_memory_is_copied_and_not_handed_over() -> None:
    ours, theirs = open_ends()
    room = theirs.arena.room((4, LARGE), "float32")
    assert room is not None
    room[:] = random(LARGE * 4).reshape(4, -1)
    message = decode(encode(Weights({"turned": room.T, "strided": room[::2], "whole": room}), theirs), ours)
    assert isinstance(message, Weights)
    for name, array in (("turned", room.T), ("strided", room[::2]), ("whole", room)):
        np.testing.assert_array_equal(message.tensors[name], array, strict=True)


def test_both_directions_are_apart() -> None:
    ours, theirs = open_ends()
    up, down = random(LARGE, 1), random(LARGE, 2)
    sent = encode(Weights({"w": up}), theirs), encode(Weights({"w": down}), ours)
    came, went = decode(sent[0], ours), decode(sent[1], theirs)
    assert isinstance(came, Weights) and isinstance(went, Weights)
    np.testing.assert_array_equal(came.tensors["w"], up)
    np.testing.assert_array_equal(went.tensors["w"], down)


def test_room_is_given_back_once_no_array_is_left_and_the_writer_was_told() -> None:
    ours, theirs = open_ends()
    message = decode(encode(Weights({"w": random(LARGE)}), theirs), ours)
    part = message.tensors["w"][5:].view(np.uint8)  # type: ignore[union-attr]
    del message
    decode(encode(Finish(), ours), theirs)
    assert theirs.arena.used_bytes() == LARGE_SIZE_BYTES and ours.window.in_use_bytes() == LARGE_SIZE_BYTES
    del part
    assert ours.window.in_use_bytes() == 0
    assert theirs.arena.used_bytes() == LARGE_SIZE_BYTES, "the writer does not know yet"
    decode(encode(Finish(), ours), theirs)
    assert theirs.arena.used_bytes() == 0


def test_room_that_was_never_sent_is_free_when_its_array_is_gone() -> None:
    _, theirs = open_ends()
    room = theirs.arena.room((LARGE,), "float32")
    assert room is not None and theirs.arena.used_bytes() == LARGE_SIZE_BYTES
    del room
    assert theirs.arena.used_bytes() == 0


def test_the_same_place_is_used_again() -> None:
    ours, theirs = open_ends()
    places = set()
    for number in range(20):
        frames = encode(Weights({"w": random(LARGE, number)}), theirs)
        places.add(msgpack.unpackb(frames[0])[2]["tensors"]["w"][1])
        message = decode(frames, ours)
        np.testing.assert_array_equal(message.tensors["w"], random(LARGE, number))  # type: ignore[union-attr]
        del message
        decode(encode(Finish(), ours), theirs)
    assert places == {0}


def test_what_finds_no_room_travels_as_a_frame() -> None:
    ours, theirs = open_ends()
    arrays = {str(number): random(SIZE_BYTES // 12, number) for number in range(5)}
    message = decode(encode(Weights(arrays), theirs), ours)
    assert isinstance(message, Weights)
    for name, array in arrays.items():
        np.testing.assert_array_equal(message.tensors[name], array, strict=True)
    assert ours.window.in_use_bytes() == 2 * (SIZE_BYTES // 12 * 4)


def test_one_array_under_two_names_has_a_place_for_each() -> None:
    ours, theirs = open_ends()
    array = random(LARGE)
    message = decode(encode(Weights({"a": array, "b": array}), theirs), ours)
    assert isinstance(message, Weights)
    np.testing.assert_array_equal(message.tensors["a"], message.tensors["b"])
    room = theirs.arena.room((LARGE,), "float32")
    assert room is not None
    room[:] = 1
    again = decode(encode(Weights({"a": room, "b": room}), theirs), ours)
    np.testing.assert_array_equal(again.tensors["b"], room)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "array",
    [
        random(LARGE * 4).reshape(2, -1).T,
        np.asfortranarray(random(LARGE * 4).reshape(4, -1)),
        random(LARGE * 4)[::2],
        random(LARGE * 2).astype(">f4"),
        np.zeros((LARGE, 4), bool),
        np.ones((3, 0, 7), np.int64),
        np.array(5, np.int8),
    ],
    ids=["transposed", "fortran", "strided", "big endian", "bool", "empty", "scalar"],
)
def test_an_array_comes_as_it_would_in_frames(array: np.ndarray) -> None:
    ours, theirs = open_ends()
    by_frames, by_memory = decode(encode(Weights({"a": array}))), decode(encode(Weights({"a": array}), theirs), ours)
    assert isinstance(by_frames, Weights) and isinstance(by_memory, Weights)
    np.testing.assert_array_equal(by_memory.tensors["a"], by_frames.tensors["a"], strict=True)
    np.testing.assert_array_equal(by_memory.tensors["a"], array)


def test_arrays_outlive_both_ends() -> None:
    ours, theirs = open_ends()
    message = decode(encode(Weights({"w": random(LARGE)}), theirs), ours)
    del ours, theirs
    gc.collect()
    np.testing.assert_array_equal(message.tensors["w"], random(LARGE))  # type: ignore[union-attr]


def test_pages_that_are_dropped_come_back_with_what_was_written() -> None:
    ours, theirs = open_ends()
    message = decode(encode(Weights({"w": random(LARGE)}), theirs), ours)
    ours.window.drop_resident()
    np.testing.assert_array_equal(message.tensors["w"], random(LARGE))  # type: ignore[union-attr]


def test_a_file_cannot_shrink_grow_or_be_unsealed_and_its_reader_cannot_write() -> None:
    ours, (written, read) = open_memory(SIZE_BYTES)
    try:
        for descriptor in (written, read):
            for size in (0, SIZE_BYTES - 1, SIZE_BYTES + 1):
                with pytest.raises(PermissionError):
                    os.ftruncate(descriptor, size)
            with pytest.raises(PermissionError):
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        with pytest.raises(PermissionError):
            os.pwrite(read, b"x", 0)
    finally:
        os.close(written)
        os.close(read)
    del ours


@pytest.mark.parametrize("size_bytes", [0, -1, 1 << 62])
def test_memory_that_cannot_be_had_is_an_error_that_leaves_nothing_open(size_bytes: int) -> None:
    with pytest.raises((OSError, ValueError)):
        open_memory(size_bytes)


LIES: dict[str, Any] = {
    "beyond the file": [IN_MEMORY, SIZE_BYTES - 64, "float32", [LARGE]],
    "far beyond": [IN_MEMORY, 1 << 60, "float32", [LARGE]],
    "larger than the file": [IN_MEMORY, 0, "complex128", [1 << 40]],
    "before the file": [IN_MEMORY, -64, "float32", [LARGE]],
    "not aligned": [IN_MEMORY, 8, "float32", [LARGE]],
    "no bytes": [IN_MEMORY, 0, "float32", [0]],
    "another frame": [-2, 0, "float32", [LARGE]],
    "a truth value": [IN_MEMORY, True, "float32", [LARGE]],
    "no number": [IN_MEMORY, "0", "float32", [LARGE]],
    "an unknown dtype": [IN_MEMORY, 0, "object", [LARGE]],
}


def claim(**arrays: Any) -> bytes:
    packed: bytes = msgpack.packb([PROTOCOL_VERSION, "Weights", {"tensors": arrays}, []])
    return packed


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_claim_that_cannot_be_true_is_refused_by_name(lie: Any) -> None:
    ours, _ = open_ends()
    with pytest.raises(ProtocolError, match="Weights.tensors.w: "):
        decode([claim(w=lie)], ours)
    assert ours.window.in_use_bytes() == 0


@pytest.mark.parametrize(("offset", "size_bytes"), [(0, 64), (4096, 64), (65472, 128), (65472, 1 << 19), (0, 1 << 20)])
def test_a_region_that_overlaps_one_in_use_is_refused(offset: int, size_bytes: int) -> None:
    ours, _ = open_ends()
    first = decode([claim(w=[IN_MEMORY, 4096, "uint8", [LARGE_SIZE_BYTES - 4096]])], ours)
    if offset + size_bytes <= 4096:
        decode([claim(w=[IN_MEMORY, offset, "uint8", [size_bytes]])], ours)
        return
    with pytest.raises(ProtocolError, match="overlap the 61440 at 4096, which are still in use"):
        decode([claim(w=[IN_MEMORY, offset, "uint8", [size_bytes]])], ours)
    del first
    with pytest.raises(ProtocolError, match="overlap"):
        decode([claim(w=[IN_MEMORY, offset, "uint8", [size_bytes]])], ours)
    assert ours.window.take_released() == [4096]
    decode([claim(w=[IN_MEMORY, offset, "uint8", [size_bytes]])], ours)


def test_two_arrays_of_one_message_do_not_overlap() -> None:
    ours, _ = open_ends()
    with pytest.raises(ProtocolError, match=r"Weights.tensors.b: .* overlap"):
        decode([claim(a=[IN_MEMORY, 0, "uint8", [4096]], b=[IN_MEMORY, 64, "uint8", [64]])], ours)


def test_memory_that_is_not_shared_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"Weights.tensors.w: an array in shared memory came, but this peer shares none"):
        decode([claim(w=[IN_MEMORY, 0, "uint8", [64]])])
    with pytest.raises(ProtocolError, match="memory at 0 was released, but none is shared"):
        decode([msgpack.packb([PROTOCOL_VERSION, "Finish", {}, [0]])])


@pytest.mark.parametrize("released", [[0], [64], [-1], ["0"], [None], [True], [[0]], [1 << 60]])
def test_a_release_of_what_was_not_given_is_refused(released: Any) -> None:
    ours, _ = open_ends()
    kept = ours.arena.room((LARGE,), "float32")
    with pytest.raises(ProtocolError, match=r"memory at .* was released, which was not in the peer's hands"):
        decode([msgpack.packb([PROTOCOL_VERSION, "Finish", {}, released])], ours)
    assert kept is not None


def test_a_release_is_taken_once() -> None:
    ours, theirs = open_ends()
    encode(Weights({"w": random(LARGE)}), theirs)
    decode([msgpack.packb([PROTOCOL_VERSION, "Finish", {}, [0]])], theirs)
    with pytest.raises(ProtocolError, match="was not in the peer's hands"):
        decode([msgpack.packb([PROTOCOL_VERSION, "Finish", {}, [0]])], theirs)
    assert ours.window.in_use_bytes() == 0


numbers = st.integers(-(1 << 62), 1 << 62) | st.integers(-64, SIZE_BYTES + 64) | st.sampled_from([0, 64, 4096, SIZE_BYTES])


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(numbers, st.sampled_from(["uint8", "float64", "bool"]), st.lists(numbers, max_size=3)), max_size=6
    ),
    st.lists(numbers, max_size=4),
)
def test_whatever_is_claimed_is_inside_and_apart_or_a_protocol_error(
    claims: list[tuple[int, str, list[int]]], released: list[int]
) -> None:
    ours, theirs = open_ends()
    room = theirs.arena.room((SIZE_BYTES,), "uint8")
    assert room is not None
    room[:] = np.arange(SIZE_BYTES) % 251
    arrays = {str(number): [IN_MEMORY, *claim] for number, claim in enumerate(claims)}
    try:
        message = decode([msgpack.packb([PROTOCOL_VERSION, "Weights", {"tensors": arrays}, released])], ours)
    except ProtocolError:
        return
    assert isinstance(message, Weights) and not released
    taken = np.zeros(SIZE_BYTES, bool)
    for name, (offset, _, _) in zip(message.tensors, claims):
        size_bytes = message.tensors[name].nbytes
        assert not taken[offset : offset + size_bytes].any()
        taken[offset : offset + size_bytes] = True
        assert message.tensors[name].tobytes() == room[offset : offset + size_bytes].tobytes()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=60))
def test_no_two_tensors_under_way_share_a_byte_and_all_room_comes_back(plan: list[tuple[int, bool]]) -> None:
    ours, theirs = open_ends()
    kept: dict[int, tuple[int, Any]] = {}
    for number, (size, drop) in enumerate(plan):
        array = np.full(LARGE_SIZE_BYTES + 4096 * size, number, np.uint8)
        kept[number] = (array.size, decode(encode(Weights({"w": array}), theirs), ours))
        if drop and kept:
            del kept[min(kept)]
            decode(encode(SendWeights(), ours), theirs)
        for value, (count, message) in kept.items():
            assert message.tensors["w"].size == count and (message.tensors["w"] == value).all()
    kept.clear()
    message = None
    decode(encode(SendWeights(), ours), theirs)
    assert theirs.arena.used_bytes() == 0
    assert theirs.arena.room((SIZE_BYTES,), "uint8") is not None, "what was freed is in one piece again"
