"""Arrays on the wire: a closed table of dtypes, C order, shapes kept (0-d and empty too), bytes exact.

A message's arrays lie beside its header. Small ones share one frame, each at a multiple of `ALIGNMENT`. A large one lies in
memory that both processes map, where there is such and it has room (`arena`, `window`); else it has a frame of its own, so
that it is sent without another copy.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

import numpy as np

from stepalign.protocol.errors import ProtocolError, shown

DTYPES: Dict[str, "np.dtype[Any]"] = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "float32", "float64", "complex64", "complex128",
    )
}  # fmt: skip
"""Name -> little-endian dtype. Object, string, structured and time dtypes have no name here, so none can be sent."""

_KNOWN: Dict["np.dtype[Any]", "tuple[str, np.dtype[Any]]"] = {}
"""What `named` found: numpy makes a dtype's name anew whenever it is asked."""

ALIGNMENT = 64
LARGE_SIZE_BYTES = 1 << 16
MAX_DIMENSIONS = 32

IN_MEMORY = -1
"""Stands for the number of the frame where an array lies in the memory that its sender shares."""

Buffer = Any
"""bytes, memoryview or zmq.Frame: whatever has the buffer protocol."""


class Placing(Protocol):
    """Where large arrays go, if they find room (`arena.Arena`)."""

    def hand_over(self, array: np.ndarray) -> Optional[int]:
        """Return the offset of an array that lies there already."""

    def place(self, array: np.ndarray) -> Optional[int]:
        """Copy an array there and return its offset."""


class Viewing(Protocol):
    """Where arrays in shared memory are read (`window.Window`)."""

    def view(self, offset: int, size_bytes: int) -> np.ndarray:
        """Return bytes in place; raises ProtocolError if they are not the sender's to give."""


def c_ordered(array: np.ndarray) -> np.ndarray:
    """Return ``array`` in C order and little-endian, with its own shape (a 0-d array stays 0-d); copied only if needed.

    An array in Fortran order would otherwise be sent in memory order and arrive transposed without an error.
    """
    return np.asarray(array, dtype=named(array.dtype)[1], order="C")


def named(dtype: "np.dtype[Any]") -> "tuple[str, np.dtype[Any]]":
    """Return the name under which arrays of ``dtype`` are sent, and the dtype they are sent in. Raises ProtocolError."""
    known = _KNOWN.get(dtype)
    if known is None:
        if dtype.name not in DTYPES:
            raise ProtocolError(
                f"an array of dtype {dtype} cannot be sent: expected one of {', '.join(DTYPES)}; convert it first"
            )
        known = _KNOWN[dtype] = (dtype.name, DTYPES[dtype.name])
    return known


class FrameWriter:
    """Collects a message's arrays as frames, large ones in ``memory`` where it has room; `add` returns the header that
    stands for the array in the message.
    """

    def __init__(self, memory: Optional[Placing] = None) -> None:
        self._memory = memory
        self._pool: List[Buffer] = []
        self._pool_size_bytes = 0
        self._large: List[Buffer] = []

    def add(self, array: np.ndarray) -> List[Any]:
        """Take one array and return ``[frame, offset, dtype, shape]``; frame 0 is the shared one."""
        if array.ndim > MAX_DIMENSIONS:
            raise ProtocolError(f"an array of {array.ndim} dimensions cannot be sent: at most {MAX_DIMENSIONS}")
        ordered = c_ordered(array)
        dtype = named(ordered.dtype)[0]
        shape = list(ordered.shape)
        if ordered.nbytes >= LARGE_SIZE_BYTES and self._memory is not None:
            place = self._memory.hand_over(ordered)
            if place is None:
                place = self._memory.place(ordered)
            if place is not None:
                return [IN_MEMORY, place, dtype, shape]
        if ordered.nbytes >= LARGE_SIZE_BYTES:
            self._large.append(ordered.reshape(-1).view(np.uint8).data)
            return [len(self._large), 0, dtype, shape]
        offset = self._pool_size_bytes
        padding = -ordered.nbytes % ALIGNMENT
        self._pool.append(ordered.tobytes())
        self._pool.append(b"\0" * padding)
        self._pool_size_bytes += ordered.nbytes + padding
        return [0, offset, dtype, shape]

    def frames(self) -> List[Buffer]:
        """Return the frames in order: the shared one, then the large ones; empty if no array was added."""
        if not self._pool and not self._large:
            return []
        return [b"".join(self._pool), *self._large]


class FrameReader:
    """Gives the arrays of a received message back, each checked against its frame, or the memory, before it is made."""

    def __init__(self, frames: Sequence[Buffer], memory: Optional[Viewing] = None) -> None:
        self._frames = frames
        self._memory = memory
        self._taken_size_bytes: Dict[int, int] = {}

    def get(self, header: Any, path: str) -> np.ndarray:
        """Return the read-only array that ``header`` stands for; aligned, C-ordered.

        Raises ProtocolError, naming ``path``, if the header is malformed or promises other bytes than the frame has.
        """
        index, offset, name, shape = self._check(header, path)
        dtype = DTYPES[name]
        count = math.prod(shape)
        size_bytes = count * dtype.itemsize
        if index == IN_MEMORY:
            return self._in_memory(offset, size_bytes, path).view(dtype).reshape(shape)
        frame = memoryview(self._frames[index]).cast("B")
        available = frame.nbytes - offset
        if size_bytes > available or (index and size_bytes != available):
            raise ProtocolError(
                f"{path}: {name}{list(shape)} needs {size_bytes} bytes, but frame {index} has {available} at {offset}"
            )
        taken_size_bytes = self._taken_size_bytes.get(index, 0) + size_bytes
        if taken_size_bytes > frame.nbytes:
            raise ProtocolError(f"{path}: the bytes of frame {index} were given to another array already")
        self._taken_size_bytes[index] = taken_size_bytes
        if not count:
            array = _empty(shape, dtype, path)
        else:
            array = np.frombuffer(frame, dtype, count, offset).reshape(shape)
            if not array.flags.aligned:
                array = array.copy()
        array.setflags(write=False)
        return array

    def finish(self) -> None:
        """Raise ProtocolError if a frame came that no header used."""
        if len(self._taken_size_bytes) == len(self._frames):
            return
        unused = set(range(len(self._frames))) - set(self._taken_size_bytes)
        if len(self._frames) > 1 and not memoryview(self._frames[0]).nbytes:
            unused.discard(0)
        if unused:
            raise ProtocolError(f"frames {sorted(unused)[:5]} of {len(self._frames)} belong to no array of the message")

    def _in_memory(self, offset: int, size_bytes: int, path: str) -> np.ndarray:
        if self._memory is None:
            raise ProtocolError(f"{path}: an array in shared memory came, but this peer shares none")
        try:
            return self._memory.view(offset, size_bytes)
        except ProtocolError as error:
            raise ProtocolError(f"{path}: {error}") from None

    def _check(self, header: Any, path: str) -> Tuple[int, int, str, Tuple[int, ...]]:
        if not (isinstance(header, list) and len(header) == 4):
            raise ProtocolError(
                f"{path}: expected an array header [frame, offset, dtype, shape], got {shown(header)}"
            )
        index, offset, name, shape = header
        if type(index) is not int or not (0 <= index < len(self._frames) or index == IN_MEMORY):
            raise ProtocolError(f"{path}: frame {shown(index)} is not one of the {len(self._frames)} received")
        if type(offset) is not int or offset < 0 or offset % ALIGNMENT:
            raise ProtocolError(f"{path}: offset {shown(offset)} is not a multiple of {ALIGNMENT}")
        if not isinstance(name, str) or name not in DTYPES:
            raise ProtocolError(f"{path}: dtype {shown(name)} is not one of {', '.join(DTYPES)}")
        if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
            raise ProtocolError(f"{path}: a shape is a list of at most {MAX_DIMENSIONS} lengths, got {shown(shape)}")
        for length in shape:
            if type(length) is not int or not 0 <= length < 1 << 48:
                raise ProtocolError(f"{path}: {shown(length)} is not a length of a dimension")
        return index, offset, name, tuple(shape)


def _empty(shape: Tuple[int, ...], dtype: "np.dtype[Any]", path: str) -> np.ndarray:
    try:
        return np.empty(shape, dtype)
    except ValueError as error:
        raise ProtocolError(f"{path}: {list(shape)} is not a shape: {error}") from None


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 (hex) of named arrays: names in sorted order, each with its dtype, shape and bytes."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = c_ordered(arrays[name])
        total.update(f"{len(name)}:{name}:{named(array.dtype)[0]}:{array.shape}:".encode())
        if array.size:
            total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()
