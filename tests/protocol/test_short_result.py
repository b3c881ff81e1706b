"""Results without tensors: one frame that says, to the bit, what the longer form says; nothing else is read from it."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepalign.protocol import short_result
from stepalign.protocol.errors import ProtocolError
from stepalign.protocol.framing import decode, encode
from stepalign.protocol.memory import Memory
from stepalign.protocol.messages import PROTOCOL_VERSION, StepResult

from .message_examples import SHORT_RESULT
from .test_golden_frames import plain

FRAME = short_result.pack(SHORT_RESULT) or b""


def long_form(result: StepResult) -> list[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(short_result, "pack", lambda result: None)
        return encode(result)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


losses = st.one_of(
    st.floats(width=32).map(lambda value: np.array(value, np.float32)),
    st.floats().map(lambda value: np.array(value, np.float64)),
    st.integers(0, (1 << 32) - 1).map(lambda value: np.frombuffer(value.to_bytes(4, "little"), np.float32).reshape(())),
    st.floats(width=16).map(lambda value: np.array(value, np.float16)),
)


@given(
    st.integers(-(1 << 63), (1 << 63) - 1), st.lists(st.floats(), max_size=5), losses, st.text(max_size=60), st.floats()
)  # fmt: skip
def test_it_says_what_the_long_form_says_to_the_bit(
    step: int, rates: list[float], loss: np.ndarray, digest: str, seconds: float
) -> None:
    result = StepResult(step, rates, loss, digest, {}, (), seconds)
    frames = encode(result)
    assert len(frames) == 1 and frames[0][0] == short_result.MARK
    short, long = decode(frames), decode(long_form(result))
    assert isinstance(short, StepResult) and isinstance(long, StepResult)
    assert [bits(rate) for rate in short.lr] == [bits(rate) for rate in long.lr]
    assert bits(short.seconds) == bits(long.seconds)
    assert plain(replace(short, lr=[], seconds=0.0)) == plain(replace(long, lr=[], seconds=0.0))
    assert short.loss.flags.aligned and not short.loss.flags.writeable


@pytest.mark.parametrize(
    "other",
    [
        {"tensors": {"buffer": {}}},
        {"masks": {"place#0": (0.5, 2.0)}},
        {"other_frameworks_loaded": ("paddle",)},
        {"loss": np.ones(1, np.float32)},
        {"loss": np.array(1, np.int64)},
        {"lr": [0.5] * 256},
        {"loss": np.array(1, np.complex64)},
        {"batch_digest": "x" * 256},
    ],
)
def test_what_has_more_to_say_takes_the_long_form(other: dict[str, Any]) -> None:
    result = replace(SHORT_RESULT, **other)
    assert short_result.pack(result) is None
    assert plain(decode(encode(result))) == plain(result)


@pytest.mark.parametrize("other", [{"lr": [True]}, {"lr": [1]}, {"lr": [np.float32(0.5)]}, {"step": True}, {"step": np.int64(3)}])
def test_what_the_long_form_refuses_or_writes_otherwise_is_left_to_it(other: dict[str, Any]) -> None:
    assert short_result.pack(replace(SHORT_RESULT, **other)) is None


def test_the_most_that_it_holds_comes_back() -> None:
    result = replace(SHORT_RESULT, lr=[0.5] * 255, batch_digest="x" * 255)
    assert len(encode(result)) == 1 and plain(decode(encode(result))) == plain(result)


def test_what_was_released_is_told_all_the_same() -> None:
    """Only a header can carry it: the first result after a region was dropped takes the long form."""

    class Window:
        released = (64,)

        def take_released(self) -> list[int]:
            taken, self.released = self.released, ()
            return list(taken)

    class Shared:
        arena, window = None, Window()

    shared: Memory = Shared()  # type: ignore[assignment]
    first, second = encode(SHORT_RESULT, shared), encode(SHORT_RESULT, shared)
    assert len(first) == 2 and first[0][0] != short_result.MARK
    assert second == [FRAME]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([FRAME[:-1]], "a short result of .* bytes came; with 2 rates and a digest of 64 it has"),
        ([FRAME + b"x"], "a short result of .* bytes came; with 2 rates and a digest of 64 it has"),
        ([FRAME[:20]], "a short result of 20 bytes came, expected 29 to 2324"),
        ([FRAME[:3] + b"\x09" + FRAME[4:]], "with 9 rates and a digest of 64"),
        ([FRAME[:2] + b"\x03" + FRAME[3:]], "whose loss has dtype 3, expected less than 3"),
        ([FRAME[:28] + b"\x01" + FRAME[29:]], "whose loss is longer than float32"),
        ([FRAME + bytes(4096)], "a short result of .* bytes came, expected 29 to 2324"),
        ([FRAME[:-1] + b"\xff"], "whose digest is not UTF-8"),
        ([FRAME, b""], "a short result came with 1 frames more"),
        ([bytes([FRAME[0], PROTOCOL_VERSION + 1]) + FRAME[2:]], f"protocol version {PROTOCOL_VERSION + 1} came, expected"),
        ([FRAME[:2]], "a short result of 2 bytes came"),
        ([FRAME[:1]], "not msgpack"),
    ],
)
def test_a_frame_that_is_none_is_refused(frames: list[bytes], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        decode(frames)
