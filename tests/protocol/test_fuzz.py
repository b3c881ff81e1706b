"""Mutated messages: only ProtocolError ever comes out of them, and memory stays bounded."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import msgpack
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stepalign.protocol.errors import ProtocolError
from stepalign.protocol.framing import decode
from stepalign.protocol.messages import BY_NAME, Message

from .message_examples import EXAMPLES, SHORT_RESULT, frames_of

FRAMES = [frames_of(example) for example in EXAMPLES]
MAX_GROWTH_BYTES = 8 << 20


def try_to_read(frames: list[bytes]) -> Message | None:
    """Decode; whatever is raised but ProtocolError fails the test."""
    with contextlib.suppress(ProtocolError):
        message = decode(frames)
        assert type(message).__name__ in BY_NAME
        return message
    return None


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.data())
def test_mutated_bytes_are_a_message_or_a_protocol_error(data: st.DataObject) -> None:
    frames = [bytearray(frame) for frame in data.draw(st.sampled_from([*FRAMES, frames_of(SHORT_RESULT)]))]
    for _ in range(data.draw(st.integers(1, 4))):
        frame = frames[data.draw(st.sampled_from([0, 0, 0, len(frames) - 1]))]
        position = data.draw(st.integers(0, len(frame)))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "swap", "delete"]))
        if kind == "set" and position < len(frame):
            frame[position] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del frame[position:]
        elif kind == "insert":
            frame[position:position] = data.draw(st.binary(max_size=9))
        elif kind == "delete":
            del frame[position : position + data.draw(st.integers(1, 9))]
        elif kind == "swap":
            frames.append(frames.pop(0))
    try_to_read([bytes(frame) for frame in frames])


@settings(max_examples=200)
@given(st.sampled_from(sorted(BY_NAME)), values, st.lists(st.binary(max_size=80), max_size=3))
def test_any_body_is_a_message_or_a_protocol_error(name: str, body: Any, frames: list[bytes]) -> None:
    try_to_read([msgpack.packb([2, name, body, []]), *frames])


@settings(max_examples=300)
@given(st.data())
def test_one_changed_field_is_a_message_or_a_protocol_error(data: st.DataObject) -> None:
    first, *rest = data.draw(st.sampled_from(FRAMES))
    version, name, body, released = msgpack.unpackb(first)
    whole: Any = {"body": body}
    place, key = whole, "body"
    while isinstance(place[key], (dict, list)) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = data.draw(values)
    try_to_read([msgpack.packb([version, name, whole["body"], released]), *rest])


@settings(max_examples=100)
@given(
    st.lists(st.integers(0, 1 << 62), max_size=6),
    st.sampled_from(["uint8", "float64", "complex128"]),
    st.integers(0, 1 << 62),
)
def test_no_array_header_makes_memory_grow(shape: list[int], dtype: str, offset: int) -> None:
    header = msgpack.packb([2, "Weights", {"tensors": {"a": [0, offset - offset % 64, dtype, shape]}}, []])
    tracemalloc.start()
    try:
        message = try_to_read([header, bytes(128)])
        assert tracemalloc.get_traced_memory()[1] < MAX_GROWTH_BYTES
    finally:
        tracemalloc.stop()
    if message is not None:
        assert all(array.nbytes <= 128 for array in message.tensors.values())  # type: ignore[union-attr]


def test_twenty_thousand_seeded_mutations_do_no_more_than_raise_a_protocol_error() -> None:
    random = np.random.default_rng(20240414)
    small = [frames for frames in FRAMES if sum(len(frame) for frame in frames) < 10_000]
    tracemalloc.start()
    try:
        for _ in range(20_000):
            frames = [bytearray(frame) for frame in small[int(random.integers(len(small)))]]
            for _ in range(int(random.integers(1, 4))):
                frame = frames[int(random.integers(len(frames)))]
                if frame:
                    frame[int(random.integers(len(frame)))] = int(random.integers(256))
            try_to_read([bytes(frame) for frame in frames])
        assert tracemalloc.get_traced_memory()[1] < MAX_GROWTH_BYTES
    finally:
        tracemalloc.stop()
