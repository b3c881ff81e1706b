"""A message as a list of frames and back: ``[msgpack header, shared small arrays, large array, ...]``.

The header is ``[version, message name, body, released]``; ``released`` lists the places in the receiver's shared memory
that the sender no longer uses (`memory`; empty where they share none). It is bounded in size and in depth before anything
is made of it, and only maps, lists, strings, numbers, booleans and nil are admitted. A step's result without tensors is
one frame of its own form (`short_result`) where nothing was released.
"""

from __future__ import annotations

from typing import Any, List, Optional, Sequence

import msgpack

from stepalign.protocol import short_result
from stepalign.protocol.errors import ProtocolError, shown
from stepalign.protocol.memory import Memory
from stepalign.protocol.messages import BY_NAME, PROTOCOL_VERSION, Message, StepResult
from stepalign.protocol.schema import reader, to_plain
from stepalign.protocol.tensors import Buffer, FrameReader, FrameWriter

MAX_HEADER_SIZE_BYTES = 16 << 20
"""A header of so many bytes can become about 60 times as much in memory; one of 10,000 tensors has 1 to 4 MB."""


def encode(message: Message, memory: Optional[Memory] = None) -> List[Buffer]:
    """Return the frames of ``message``; large arrays are referred to, or put into ``memory``, and must not change until
    they were read.
    """
    released = [] if memory is None else memory.window.take_released()
    if isinstance(message, StepResult) and not released:
        short = short_result.pack(message)
        if short is not None:
            return [short]
    frames = FrameWriter(None if memory is None else memory.arena)
    body = to_plain(message, frames)
    header = msgpack.packb([PROTOCOL_VERSION, type(message).__name__, body, released], use_bin_type=True)
    if len(header) > MAX_HEADER_SIZE_BYTES:
        raise ProtocolError(
            f"the header of {type(message).__name__} has {len(header)} bytes, more than {MAX_HEADER_SIZE_BYTES}"
        )
    return [header, *frames.frames()]


def decode(frames: Sequence[Buffer], memory: Optional[Memory] = None) -> Message:
    """Return the message that ``frames`` and ``memory`` hold. Raises ProtocolError, with the field's path, if they hold none."""
    if not frames:
        raise ProtocolError("a message without a frame came")
    header = memoryview(frames[0]).cast("B")
    if header.nbytes > 1 and header[0] == short_result.MARK:
        _check_version(header[1])
        if len(frames) > 1:
            raise ProtocolError(f"a short result came with {len(frames) - 1} frames more; it has one")
        return short_result.unpack(header)
    if header.nbytes > MAX_HEADER_SIZE_BYTES:
        raise ProtocolError(f"a header of {header.nbytes} bytes came, more than {MAX_HEADER_SIZE_BYTES}")
    try:
        parts: Any = msgpack.unpackb(header, raw=False, strict_map_key=True, ext_hook=_refuse_extension)
    except ProtocolError:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"a header that is not msgpack came: {error}") from None
    if not (isinstance(parts, list) and len(parts) >= 3):
        raise ProtocolError("a header is [version, message name, body, released]; something else came")
    version, name, body = parts[:3]
    _check_version(version)
    if not isinstance(name, str) or name not in BY_NAME:
        raise ProtocolError(f"message {shown(name)} is unknown")
    if len(parts) != 4 or not isinstance(parts[3], list):
        raise ProtocolError(f"the header of {name} does not end with a list of what was released")
    if memory is not None:
        memory.arena.release(parts[3])
    elif parts[3]:
        raise ProtocolError(f"memory at {shown(parts[3][0])} was released, but none is shared")
    arrays = FrameReader(frames[1:], None if memory is None else memory.window)
    message: Message = reader(BY_NAME[name])(body, name, arrays)
    arrays.finish()
    return message


def _check_version(version: Any) -> None:
    if version != PROTOCOL_VERSION or type(version) is not int:
        raise ProtocolError(
            f"protocol version {shown(version)} came, expected {PROTOCOL_VERSION}: "
            "both sides must run the same stepalign; start the worker from this coordinator's archive"
        )


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ProtocolError(f"a msgpack extension (type {code}) came; none is admitted")
