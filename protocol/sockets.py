"""The two ends of the wire: a ROUTER that the coordinator binds, a DEALER that each worker connects.

No linger, bounded queues, a private ipc path; a send to a peer that is not there is an error, never silence. A frame that
promises more than `MAX_FRAME_SIZE_BYTES` is refused before room is made for it, and its connection ends. What is larger
goes in several: a frame of exactly that size is continued by the next one.
"""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import Callable, List, Mapping, Optional

import numpy as np
import zmq

from stepalign.protocol.errors import ProtocolError
from stepalign.protocol.framing import decode, encode
from stepalign.protocol.memory import Memory
from stepalign.protocol.messages import Message
from stepalign.protocol.tensors import Buffer

MAX_IPC_PATH_BYTES = 107
MAX_FRAMES = 1 << 16
MAX_FRAME_SIZE_BYTES = 128 << 20
_KEEP_COPYING_BELOW_BYTES = 1 << 16


def ipc_endpoint(path: str) -> str:
    """Return the endpoint of a socket file; raises ProtocolError if the kernel would not take so long a path."""
    size_bytes = len(os.fsencode(path))
    if size_bytes > MAX_IPC_PATH_BYTES:
        raise ProtocolError(
            f"the socket path {path} has {size_bytes} bytes, the kernel takes {MAX_IPC_PATH_BYTES}: set TMPDIR to a shorter folder"
        )
    return f"ipc://{path}"


def bind_router(
    context: "zmq.Context[zmq.Socket[bytes]]",
    endpoint: str,
    prepare: Callable[["zmq.Socket[bytes]"], None] = lambda socket: None,
) -> "zmq.Socket[bytes]":
    """Return a bound ROUTER that refuses to drop messages; ``prepare`` may set more of it before it is bound."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.SNDHWM, 1000)
    socket.setsockopt(zmq.RCVHWM, 1000)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_SIZE_BYTES)
    prepare(socket)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError:
        socket.close(linger=0)
        raise
    return socket


def connect_dealer(
    context: "zmq.Context[zmq.Socket[bytes]]",
    endpoint: str,
    identity: str,
    prepare: Callable[["zmq.Socket[bytes]"], None] = lambda socket: None,
) -> "zmq.Socket[bytes]":
    """Return a DEALER that is known to the coordinator as ``identity``; ``prepare`` may set more of it first."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IDENTITY, identity.encode())
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_SIZE_BYTES)
    prepare(socket)
    socket.connect(endpoint)
    return socket


def be_ready_for_large(context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    """Have pyzmq make now what messages that are not copied need, a context with threads: it is kept until the process ends,
    and would come with the first large message, in the midst of a run.
    """
    with context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as other:
        one.bind("inproc://ready")
        other.connect("inproc://ready")
        other.send(zmq.Frame(bytes(1), copy=False, copy_threshold=0), copy=False)
        one.recv(copy=False)


def send(
    socket: "zmq.Socket[bytes]",
    message: Message,
    identity: str = "",
    memory: Optional[Memory] = None,
    flags: int = 0,
) -> None:
    """Send ``message``; through a ROUTER, to ``identity``. Large arrays must stay unchanged until the peer answers."""
    send_frames(socket, encode(message, memory), identity, flags)


def send_frames(socket: "zmq.Socket[bytes]", frames: List[Buffer], identity: str = "", flags: int = 0) -> None:
    """Send a message that is encoded already."""
    frames = [piece for frame in frames for piece in _pieces(frame)]
    if identity:
        frames.insert(0, identity.encode())
    socket.send_multipart(frames, flags, copy=sum(memoryview(item).nbytes for item in frames) < _KEEP_COPYING_BELOW_BYTES)


def receive(socket: "zmq.Socket[bytes]", memory: Optional[Memory] = None) -> Message:
    """Wait for one message on a DEALER and return it."""
    return _decode(_buffers(socket), memory)


def receive_from(
    socket: "zmq.Socket[bytes]", memories: Mapping[str, Optional[Memory]] = MappingProxyType({})
) -> "tuple[str, Message | ProtocolError]":
    """Return the sender's identity and its message, or the ProtocolError that its bytes are. ``memories`` has what each
    sender shares.
    """
    frames = _buffers(socket)
    identity = bytes(frames.pop(0)).decode("utf-8", "replace")
    try:
        return identity, _decode(frames, memories.get(identity))
    except ProtocolError as error:
        return identity, error


def _buffers(socket: "zmq.Socket[bytes]") -> List[memoryview]:
    return [frame.buffer for frame in socket.recv_multipart(copy=False)]


def _decode(frames: List[memoryview], memory: Optional[Memory]) -> Message:
    if len(frames) > MAX_FRAMES:
        raise ProtocolError(f"a message of {len(frames)} frames came, more than {MAX_FRAMES}")
    return decode(_joined(frames), memory)


def _pieces(frame: Buffer) -> List[Buffer]:
    """Return a frame as those that may be sent; of a larger one the last is smaller than the largest, and may be empty."""
    whole = memoryview(frame).cast("B")
    if whole.nbytes < MAX_FRAME_SIZE_BYTES:
        return [frame]
    return [whole[start : start + MAX_FRAME_SIZE_BYTES] for start in range(0, whole.nbytes + 1, MAX_FRAME_SIZE_BYTES)]


def _joined(frames: List[memoryview]) -> List[memoryview]:
    """Return the frames as they were before they were cut; ``frames`` is emptied where any was, piece by piece."""
    if all(frame.nbytes != MAX_FRAME_SIZE_BYTES for frame in frames):
        return frames
    joined: List[memoryview] = []
    frames.reverse()
    while frames:
        count = next((n for n, frame in enumerate(reversed(frames), 1) if frame.nbytes != MAX_FRAME_SIZE_BYTES), 0)
        if not count:
            raise ProtocolError("the last frame of a message is to be continued, but nothing follows it")
        joined.append(_taken(frames, count))
    return joined


def _taken(frames: List[memoryview], count: int) -> memoryview:
    """Return what so many frames hold that lie, in reverse, at the end of ``frames``; they are gone as they are copied."""
    if count == 1:
        return frames.pop()
    whole = np.empty(sum(frame.nbytes for frame in frames[-count:]), np.uint8)
    start = 0
    for _ in range(count):
        piece = frames.pop()
        whole[start : start + piece.nbytes] = piece
        start += piece.nbytes
    return whole.data
