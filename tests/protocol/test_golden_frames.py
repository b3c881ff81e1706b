"""Golden frames: what a message looks like on the wire, byte for byte, for this version of the protocol.

A change here means that workers and coordinators of two versions no longer understand each other: raise
PROTOCOL_VERSION, then store the frames anew with ``python tests/protocol/message_examples.py``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import numpy as np
import pytest

from stepalign.protocol.framing import decode, encode
from stepalign.protocol.messages import BY_NAME, Message

from .message_examples import EXAMPLES, SHORT_RESULT, frames_of, golden_path, name_of


def stored(message: Message) -> list[bytes]:
    return [bytes.fromhex(line) for line in golden_path(message).read_text(encoding="ascii").splitlines()]


def plain(value: Any) -> Any:
    """Make arrays comparable by dtype, shape and bytes, and dataclasses by their fields."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [plain(item) for item in value]
    return type(value).__name__, value


def test_there_is_an_example_of_every_message() -> None:
    assert {name_of(example) for example in EXAMPLES} == set(BY_NAME) == {cls.__name__ for cls in get_args(Message)}


@pytest.mark.parametrize("example", [*EXAMPLES, SHORT_RESULT], ids=name_of)
def test_a_message_is_sent_as_its_golden_frames(example: Message) -> None:
    assert frames_of(example) == stored(example)


@pytest.mark.parametrize("example", [*EXAMPLES, SHORT_RESULT], ids=name_of)
def test_golden_frames_are_read_as_the_message(example: Message) -> None:
    assert plain(decode(stored(example))) == plain(example)


@pytest.mark.parametrize("example", [*EXAMPLES, SHORT_RESULT], ids=name_of)
def test_a_message_comes_back_as_it_was_sent(example: Message) -> None:
    assert plain(decode(encode(example))) == plain(example)
