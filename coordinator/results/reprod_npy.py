"""The .npy files of reprod_log 1.0.1, a pickled dict of name -> ndarray: written for every numpy, read without trust.

Guarantees: a written file holds what ``np.save`` of numpy 1.x writes, so numpy 1.x and 2.x both load it; it is written array
by array, and what is read as it is asked for is never in memory whole. Reading runs
nothing that the file names: only the pickle instructions that such a file needs are let through, each name it refers to
must be one of a few exact ones, and those stand for inert descriptions here, never for numpy's own functions.
This is the only module that touches pickle; reprod_log's own format leaves no other way.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import pickle
import pickletools
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from stepalign.coordinator.results.records import write_pieces
from stepalign.protocol.errors import CaseError

MAX_SIZE_BYTES = 1 << 30
_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 4096
_HEADER = re.compile(
    r"\{'descr': (?P<descr>'[^']*'|\[.*\]), 'fortran_order': (?:True|False), 'shape': (?P<shape>\([\d, ]*\)), *\}\s*"
)
_WRITTEN_PROTOCOL = 3  # what numpy 1.x writes; protocol 4 frames the names that must be respelled below
_BEFORE_ITEM, _AFTER_ITEM = len(pickle.PROTO) + 1, len(pickle.STOP)
_ITEMS_AT_ONCE = 1000
_MULTIARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_WHAT_IT_IS = "a reprod_log file (a dict of name -> numeric array, as ReprodLogger.save writes it)"
_NUMERIC_DTYPE = re.compile(r"b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)")
_OPCODES = frozenset(
    [
        "PROTO",
        "FRAME",
        "STOP",
        "MARK",
        "GLOBAL",
        "STACK_GLOBAL",
        "REDUCE",
        "BUILD",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "INT",
        "LONG",
        "LONG1",
        "LONG4",
        "BININT",
        "BININT1",
        "BININT2",
        "FLOAT",
        "BINFLOAT",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "EMPTY_LIST",
        "LIST",
        "APPEND",
        "APPENDS",
        "EMPTY_DICT",
        "DICT",
        "SETITEM",
        "SETITEMS",
        "PUT",
        "BINPUT",
        "LONG_BINPUT",
        "MEMOIZE",
        "GET",
        "BINGET",
        "LONG_BINGET",
    ]
)


def write_reprod_npy(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays`` as reprod_log 1.0.1 does. Each is any shape, of a numeric dtype, kept as it is (0-d included).

    Raises ValueError for no arrays at all (reprod_log calls two empty files equal) and for an object array.
    """
    if not arrays:
        raise ValueError(f"no arrays to write to {path}: reprod_log passes two empty files")
    write_pieces(path, _file_of(path, arrays))


def read_reprod_npy(path: Path, max_size_bytes: int = MAX_SIZE_BYTES) -> dict[str, np.ndarray]:
    """Read a file that reprod_log or `write_reprod_npy` wrote; the arrays are read-only views of the file's bytes.

    Raises CaseError, naming the file and what was found, for anything but a dict of str -> numeric array or scalar.
    """
    content = _read_bounded(path, max_size_bytes)
    file = io.BytesIO(content)
    _check_header(path, file)
    payload = content[file.tell() :]
    _check_opcodes(path, payload)
    try:
        loaded = _InertUnpickler(io.BytesIO(payload)).load()
    except _RefusedError as refusal:
        raise CaseError(_refused(path, str(refusal))) from None
    # A damaged or hostile pickle makes the unpickler raise nearly anything; all of it means the same to the user.
    except (pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError) as error:
        raise CaseError(_refused(path, f"a damaged pickle ({type(error).__name__}: {_short(str(error))})")) from None
    except (MemoryError, RecursionError, OverflowError) as error:
        raise CaseError(_refused(path, f"a pickle that asks for too much ({type(error).__name__})")) from None
    return _as_arrays(path, loaded)


def _file_of(path: Path, arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """Give the file's bytes: the pickle of an empty dict, and each item pickled on its own where the dict is filled.

    An item refers to what the first pickle has memoized; what it memoizes itself is forgotten with it.
    """
    outer = np.empty((), dtype=object)
    outer[()] = {}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(outer))
    yield file.getvalue()
    pickler = pickle.Pickler(file, protocol=_WRITTEN_PROTOCOL)
    opening, closing = _split_in_dict(_pickled(pickler, file, outer))
    yield _spelled_for_every_numpy(opening)
    memo = pickler.memo.copy()
    items = iter(arrays.items())
    for first in items:
        yield pickle.MARK
        for name, array in itertools.chain([first], itertools.islice(items, _ITEMS_AT_ONCE - 1)):
            held = np.array(array, order="C")
            if _NUMERIC_DTYPE.fullmatch(held.dtype.str[1:]) is None:
                raise ValueError(f"{name}: dtype {held.dtype} cannot be written to {path}")
            for part in (name, held):
                pickler.memo = memo
                yield _pickled(pickler, file, part)[_BEFORE_ITEM:-_AFTER_ITEM]
        yield pickle.SETITEMS
    yield closing


def _pickled(pickler: pickle.Pickler, file: io.BytesIO, value: object) -> bytes:
    file.seek(0)
    file.truncate()
    pickler.dump(value)
    return file.getvalue()


def _split_in_dict(payload: bytes) -> tuple[bytes, bytes]:
    """Split a pickle with one empty dict where that dict is made and memoized."""
    operations = [(opcode.name, position or 0) for opcode, _, position in pickletools.genops(payload)]
    made = [name for name, _ in operations].index("EMPTY_DICT")
    place = operations[made + 2][1]
    return payload[:place], payload[place:]


def _spelled_for_every_numpy(payload: bytes) -> bytes:
    """Respell the one module that numpy 2 renamed: numpy before 1.26 knows only the old name, numpy 2 knows both."""
    old, new = (f"c{module}\n".encode() for module in _MULTIARRAY_MODULES)
    pieces, done = [], 0
    for opcode, _, position in pickletools.genops(payload + pickle.STOP):
        if opcode.name == "GLOBAL" and position is not None and payload.startswith(new, position):
            pieces += [payload[done:position], old]
            done = position + len(new)
    return b"".join([*pieces, payload[done:]])


def _read_bounded(path: Path, max_size_bytes: int) -> bytes:
    try:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "a special file" if path.exists() else "nothing there"
            raise CaseError(f"{path}: expected {_WHAT_IT_IS}, found {found}. Give the path of the .npy file.")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_size_bytes:
                raise CaseError(f"{path}: {size} bytes is more than the {max_size_bytes} that are read of such a file.")
            return file.read(max_size_bytes)
    except OSError as error:
        raise CaseError(f"{path}: cannot be read: {error.strerror}. Check the path and its permissions.") from error


def _check_header(path: Path, file: io.BytesIO) -> None:
    """Move ``file`` behind the .npy header; raise CaseError unless it announces one pickled object.

    numpy's own reader is not used: it takes headers for Python source, and lets a tokenizer's errors and warnings out.
    """
    magic = file.read(len(_MAGIC) + 2)
    length_size = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}.get(magic[len(_MAGIC) :])
    if not magic.startswith(_MAGIC) or length_size is None:
        raise CaseError(f"{path}: expected {_WHAT_IT_IS}, found a file that is no .npy file by its first bytes.")
    length = int.from_bytes(file.read(length_size), "little")
    header = file.read(min(length, _MAX_HEADER_BYTES)).decode("latin1")
    fields = _HEADER.fullmatch(header)
    if fields is None:
        raise CaseError(f"{path}: expected {_WHAT_IT_IS}, found a damaged .npy header: {_short(header)!r}.")
    descr, shape = fields["descr"], _short(fields["shape"])
    if descr not in ("'|O'", "'O'"):
        raise CaseError(
            f"{path}: expected {_WHAT_IT_IS}, found a plain array of shape {shape} and dtype {_short(descr)},"
            " which has no names. Save it with reprod_log's ReprodLogger, or give another file."
        )
    if shape != "()":
        raise CaseError(f"{path}: expected {_WHAT_IT_IS}, found an object array of shape {shape}.")


def _check_opcodes(path: Path, payload: bytes) -> None:
    """Raise CaseError for an instruction that such a file never has, a length past its end, or a wild memo index."""
    count = 0
    end = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickletools warns of backslashes in names
            for opcode, argument, position in pickletools.genops(payload):
                count += 1
                end = (position or 0) + 1
                if found := _out_of_place(opcode.name, argument, count):
                    raise CaseError(_refused(path, found))
    except (ValueError, EOFError, IndexError, OverflowError) as error:
        raise CaseError(_refused(path, f"a damaged pickle ({_short(str(error))})")) from None
    if end != len(payload):
        raise CaseError(_refused(path, f"{len(payload) - end} bytes behind the end of the pickle"))


def _out_of_place(opcode: str, argument: Any, position: int) -> str | None:
    """Say what is wrong with one instruction, the ``position``-th of its pickle, or nothing."""
    if opcode not in _OPCODES:
        return f"the pickle instruction {opcode}"
    if opcode == "GLOBAL":
        module, _, name = str(argument).partition(" ")
        if (module, name) not in _GLOBALS:
            return f"a reference to {_short(module)}.{_short(name)}"
    if opcode in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > position:
        return f"a damaged pickle (memo index {argument})"
    return None


class _RefusedError(Exception):
    """The pickle holds something that a reprod_log file never holds; the message names it."""


def _refuse(found: str) -> NoReturn:
    raise _RefusedError(found)


def _refused(path: Path, found: str) -> str:
    return f"{path}: refused; expected {_WHAT_IT_IS}, found {found}. Nothing in the file was run."


def _short(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."


class _Dtype:
    """What the file says a dtype is: type and size, then, set by BUILD, the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "|"

    def __setstate__(self, state: Any) -> None:
        plain = isinstance(state, tuple) and len(state) >= 5 and state[1] in ("<", ">", "=", "|")
        if not plain or any(part is not None for part in state[2:5]):
            _refuse("a structured or sub-array dtype")
        self.order = state[1]


class _Array:
    """What the file says an array is: a shape, a dtype and either raw bytes or, for objects, a list."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.dtype = _Dtype("")
        self.fortran = False
        self.data: bytes | list[Any] = b""

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            _refuse("an array without the five parts of its state")
        _, shape, dtype, fortran, data = state
        if not (isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)):
            _refuse("an array with a shape that is no tuple of sizes")
        if type(dtype) is not _Dtype or not isinstance(data, (bytes, list)):
            _refuse("an array without a dtype or without its bytes")
        self.shape, self.dtype, self.fortran, self.data = shape, dtype, bool(fortran), data


class _Global:
    """One name that a file may refer to. Stands for itself; no instruction of a pickle can change it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> NoReturn:
        _refuse("a state set on one of numpy's own names")

    def __call__(self, *arguments: Any) -> Any:
        _refuse("a call of a name that is not a function here")


class _NdarrayName(_Global):
    __slots__ = ()


class _DtypeName(_Global):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> _Dtype:
        if not (arguments and isinstance(arguments[0], str)):
            _refuse("a dtype that is not given by its short name")
        return _Dtype(arguments[0])


class _ReconstructName(_Global):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> _Array:
        if not (arguments and isinstance(arguments[0], _NdarrayName)):
            _refuse("an array of a class other than ndarray")
        return _Array()


class _ScalarName(_Global):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> _Array:
        if not (len(arguments) == 2 and type(arguments[0]) is _Dtype and isinstance(arguments[1], bytes)):
            _refuse("a numpy scalar that is not a dtype and its bytes")
        scalar = _Array()
        scalar.dtype, scalar.data = arguments
        return scalar


class _EncodeName(_Global):
    """How pickles of protocol 2 spell bytes."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> bytes:
        if not (len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1"):
            _refuse("a call of _codecs.encode for anything but latin1")
        return arguments[0].encode("latin1")


_GLOBALS: Mapping[tuple[str, str], _Global] = {
    **{(module, "_reconstruct"): _ReconstructName() for module in _MULTIARRAY_MODULES},
    **{(module, "scalar"): _ScalarName() for module in _MULTIARRAY_MODULES},
    ("numpy", "ndarray"): _NdarrayName(),
    ("numpy", "dtype"): _DtypeName(),
    ("_codecs", "encode"): _EncodeName(),
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> _Global:
        found = _GLOBALS.get((module_name, global_name))
        if found is None:
            _refuse(f"a reference to {_short(module_name)}.{_short(global_name)}")
        return found


def _as_arrays(path: Path, loaded: Any) -> dict[str, np.ndarray]:
    is_one_object = type(loaded) is _Array and isinstance(loaded.data, list) and loaded.shape == ()
    content = loaded.data[0] if is_one_object and len(loaded.data) == 1 else loaded
    if type(content) is not dict:
        raise CaseError(_refused(path, _kind_of(content)))
    for key, value in content.items():
        if type(key) is not str:
            raise CaseError(_refused(path, f"a key that is {_kind_of(key)}"))
        if type(value) is not _Array:
            raise CaseError(_refused(path, f"{_kind_of(value)} under the key {_short(key)!r}"))
    return {key: _as_array(path, key, value) for key, value in content.items()}


def _as_array(path: Path, key: str, described: _Array) -> np.ndarray:
    """View the described bytes as an array; never a copy, so that a small file cannot grow large in memory."""
    code, data = described.dtype.code, described.data
    if isinstance(data, list) or _NUMERIC_DTYPE.fullmatch(code) is None:
        raise CaseError(_refused(path, f"an array of dtype {_short(code)!r} under the key {_short(key)!r}"))
    try:
        dtype = np.dtype(described.dtype.order + code)
    except TypeError:
        raise CaseError(_refused(path, f"the dtype {code!r}, which this machine lacks, at {_short(key)!r}")) from None
    expected_bytes = math.prod(described.shape) * dtype.itemsize
    if expected_bytes != len(data):
        found = f"{len(data)} bytes where shape {described.shape} of {dtype} takes {expected_bytes}"
        raise CaseError(_refused(path, f"{found}, under the key {_short(key)!r}"))
    try:
        flat = np.frombuffer(data, dtype) if data else np.empty(0, dtype)
        return flat.reshape(described.shape, order="F" if described.fortran else "C")
    except (ValueError, OverflowError) as error:
        raise CaseError(_refused(path, f"{_short(str(error))}, under the key {_short(key)!r}")) from None


def _kind_of(value: Any) -> str:
    if type(value) is _Array:
        return f"an array of dtype {_short(value.dtype.code)!r}"
    if isinstance(value, (_Global, _Dtype)):
        return "a bare reference to numpy"
    return f"a Python {type(value).__name__}"
