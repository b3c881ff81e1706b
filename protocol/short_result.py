"""A step's result without tensors as one frame of some hundred bytes: what a step of a millisecond can afford.

It says the same as the result's msgpack header and shared frame, to the bit. `framing` chooses it where it can, and tells
it from a header by its first byte, which msgpack never uses.
"""

from __future__ import annotations

import functools
import struct
from typing import Any, Optional

import numpy as np

from stepalign.protocol.errors import ProtocolError
from stepalign.protocol.messages import PROTOCOL_VERSION, StepResult

MARK = 0xC1
"""The first byte. The second is the protocol's version."""

_LOSS_DTYPES = tuple(np.dtype(name).newbyteorder("<") for name in ("float16", "float32", "float64"))
_NUMBERS = {dtype: number for number, dtype in enumerate(_LOSS_DTYPES)}
_MAX = 255
"""Of groups, and of the digest's bytes: each is counted by one byte."""


@functools.cache
def _layout(groups: int) -> struct.Struct:
    """Return: mark, version, the loss's dtype, groups, the digest's size, step, seconds, the loss's bytes, rates."""
    return struct.Struct(f"<BBBBBqd8s{groups}d")


_HEAD = _layout(0)
_MOST_BYTES = _layout(_MAX).size + _MAX


def pack(result: StepResult) -> Optional[bytes]:
    """Return a result as one frame; None for one that has more to say than a frame like this can hold."""
    loss, rates = result.loss, result.lr
    if result.tensors or result.masks or result.other_frameworks_loaded or len(rates) > _MAX:
        return None
    if not isinstance(loss, np.ndarray) or loss.ndim or type(result.step) is not int or {*map(type, rates)} - {float}:
        return None
    dtype = _NUMBERS.get(loss.dtype)
    digest = result.batch_digest.encode()
    if dtype is None or len(digest) > _MAX:
        return None
    try:
        head = _layout(len(rates)).pack(
            MARK, PROTOCOL_VERSION, dtype, len(rates), len(digest), result.step, result.seconds, loss.tobytes(), *rates
        )
    except struct.error:
        return None
    return head + digest


def unpack(frame: Any) -> StepResult:
    """Return the result that a frame which begins with `MARK` and the version holds. Raises ProtocolError if it holds none."""
    size_bytes = memoryview(frame).nbytes
    if not _HEAD.size <= size_bytes <= _MOST_BYTES:
        raise ProtocolError(f"a short result of {size_bytes} bytes came, expected {_HEAD.size} to {_MOST_BYTES}")
    data = bytes(frame)
    dtype, groups, digest_bytes = data[2:5]
    layout = _layout(groups)
    if len(data) != layout.size + digest_bytes:
        raise ProtocolError(
            f"a short result of {len(data)} bytes came; with {groups} rates and a digest of {digest_bytes} it has "
            f"{layout.size + digest_bytes}"
        )
    if dtype >= len(_LOSS_DTYPES):
        raise ProtocolError(f"a short result came whose loss has dtype {dtype}, expected less than {len(_LOSS_DTYPES)}")
    _, _, _, _, _, step, seconds, loss, *rates = layout.unpack_from(data)
    if any(loss[_LOSS_DTYPES[dtype].itemsize :]):
        raise ProtocolError(f"a short result came whose loss is longer than {_LOSS_DTYPES[dtype]}")
    try:
        digest = data[layout.size :].decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a short result came whose digest is not UTF-8: {error}") from None
    return StepResult(step, rates, np.ndarray((), _LOSS_DTYPES[dtype], loss), digest, {}, (), seconds)
