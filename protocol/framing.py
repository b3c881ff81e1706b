"""A message as a list of frames and back: ``[msgpack header, shared small arrays, large array, ...]``.

The header is ``[version, message name, body]``. It is bounded in size and in depth before anything is made of it, and
only maps, lists, strings, numbers, booleans and nil are admitted.
"""

from __future__ import annotations

from typing import Any, List, Sequence

import msgpack

from stepalign.protocol.errors import ProtocolError, shown
from stepalign.protocol.messages import BY_NAME, PROTOCOL_VERSION, Message
from stepalign.protocol.schema import reader, to_plain
from stepalign.protocol.tensors import Buffer, FrameReader, FrameWriter

MAX_HEADER_SIZE_BYTES = 16 << 20
"""A header of so many bytes can become about 60 times as much in memory; one of 10,000 tensors has 1 to 4 MB."""


def encode(message: Message) -> List[Buffer]:
    """Return the frames of ``message``; large arrays are referred to, not copied, and must not change until sent."""
    frames = FrameWriter()
    body = to_plain(message, frames)
    header = msgpack.packb([PROTOCOL_VERSION, type(message).__name__, body], use_bin_type=True)
    if len(header) > MAX_HEADER_SIZE_BYTES:
        raise ProtocolError(
            f"the header of {type(message).__name__} has {len(header)} bytes, more than {MAX_HEADER_SIZE_BYTES}"
        )
    return [header, *frames.frames()]


def decode(frames: Sequence[Buffer]) -> Message:
    """Return the message that ``frames`` hold. Raises ProtocolError, with the field's path, if they hold none."""
    if not frames:
        raise ProtocolError("a message without a frame came")
    header = memoryview(frames[0]).cast("B")
    if header.nbytes > MAX_HEADER_SIZE_BYTES:
        raise ProtocolError(f"a header of {header.nbytes} bytes came, more than {MAX_HEADER_SIZE_BYTES}")
    try:
        parts: Any = msgpack.unpackb(header, raw=False, strict_map_key=True, ext_hook=_refuse_extension)
    except ProtocolError:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"a header that is not msgpack came: {error}") from None
    if not (isinstance(parts, list) and len(parts) == 3):
        raise ProtocolError("a header is [version, message name, body]; something else came")
    version, name, body = parts
    if version != PROTOCOL_VERSION or type(version) is not int:
        raise ProtocolError(
            f"protocol version {shown(version)} came, expected {PROTOCOL_VERSION}: "
            "both sides must run the same stepalign; start the worker from this coordinator's archive"
        )
    if not isinstance(name, str) or name not in BY_NAME:
        raise ProtocolError(f"message {shown(name)} is unknown")
    arrays = FrameReader(frames[1:])
    message: Message = reader(BY_NAME[name])(body, name, arrays)
    arrays.finish()
    return message


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ProtocolError(f"a msgpack extension (type {code}) came; none is admitted")
