"""Frozen dataclasses to plain values and back, strictly: every error names the field's path.

Used for messages on the wire and for case.toml. A field's type annotation is its whole schema: nothing is coerced
(an int is accepted for a float), no key is ignored, nothing is guessed. Readers are compiled once for each type.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Type, TypeVar, Union

import numpy as np

from stepalign.protocol.errors import ProtocolError, shown
from stepalign.protocol.tensors import FrameReader, FrameWriter

MAX_DEPTH = 64
"""Of values that no type describes, such as a case's options."""

_SHOWN_PATH = 200

T = TypeVar("T")
Reader = Callable[[Any, str, Optional[FrameReader]], Any]

_WHOLE_TYPES = frozenset({bool, float, str})
"""Where one of these is asked for, any value of just that type may stand."""

_PLAIN_TYPES = _WHOLE_TYPES | {int, type(None)}
"""Values of just these types have no other plain form."""

_UNIONS = (Union, getattr(types, "UnionType", Union))
"""What ``Optional[X]`` and, from Python 3.10 on, ``X | None`` are made of."""


class SchemaError(ProtocolError):
    """A value does not have the form that its type demands. ``path`` says where, e.g. ``weights.rename[0]``."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path[:_SHOWN_PATH] or 'message'}: {problem}")
        self.path = path
        self.problem = problem


def to_plain(value: Any, frames: Optional[FrameWriter] = None) -> Any:
    """Return ``value`` as dicts, lists, strings and numbers; arrays go to ``frames`` and leave their header."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray):
        if frames is None:
            raise TypeError("an array needs a FrameWriter")
        return frames.add(value)
    if isinstance(value, (list, tuple)):
        return list(value) if _PLAIN_TYPES.issuperset(map(type, value)) else [to_plain(item, frames) for item in value]
    names = _field_names(value.__class__)
    if names is not None:
        fields = ((name, getattr(value, name)) for name in names)
        return {name: item if type(item) in _PLAIN_TYPES else to_plain(item, frames) for name, item in fields}
    if isinstance(value, (dict, Mapping)):  # a dict is found at once, by its type
        return {str(key): to_plain(item, frames) for key, item in value.items()}
    raise TypeError(f"{type(value).__name__} has no plain form")


@functools.cache
def _field_names(cls: Any) -> Optional[Tuple[str, ...]]:
    """Return the names of a dataclass's fields; None for any other class."""
    return tuple(item.name for item in dataclasses.fields(cls)) if dataclasses.is_dataclass(cls) else None


def from_plain(cls: Type[T], value: Any, path: str = "", frames: Optional[FrameReader] = None) -> T:
    """Return the ``cls`` that ``value`` describes. Raises SchemaError with the path of the first wrong field."""
    read: Reader = reader(cls)  # type: ignore[arg-type,unused-ignore]
    return typing.cast(T, read(value, path, frames))


@functools.cache
def reader(annotation: Any) -> Reader:
    """Return the compiled reader of one type annotation."""
    if annotation is Any:
        return _read_plain
    if annotation is np.ndarray:
        return _read_array
    if annotation in (bool, int, float, str, type(None)):
        return _scalar_reader(annotation)
    if dataclasses.is_dataclass(annotation):
        return _dataclass_reader(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _UNIONS:
        return _union_reader(arguments)
    if origin is typing.Literal:
        return _literal_reader(arguments)
    if origin in (list, tuple):
        if origin is tuple and arguments[-1] is not Ellipsis:
            return _fixed_tuple_reader(arguments)
        return _sequence_reader(arguments[0], origin)
    if origin is dict:
        return _dict_reader(arguments[1])
    raise TypeError(f"no reader for {annotation}")


def describe(annotation: Any) -> str:
    """Return a type annotation in words, for error messages."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", type(None): "nothing"}
    if annotation in names:
        return names[annotation]
    if annotation is np.ndarray:
        return "an array"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _UNIONS:
        return " or ".join(describe(item) for item in arguments if item is not type(None))
    if origin is typing.Literal:
        return " or ".join(repr(item) for item in arguments)
    if origin in (list, tuple):
        return "a list"
    return "a table"


def _read_array(value: Any, path: str, frames: Optional[FrameReader]) -> np.ndarray:
    if frames is None:
        raise SchemaError(path, "an array cannot stand here")
    return frames.get(value, path)


def _read_plain(value: Any, path: str, frames: Optional[FrameReader], depth: int = 0) -> Any:
    """Take any value that `to_plain` can give and msgpack can carry: no dates, no bytes, no integers beyond 64 bits."""
    if depth > MAX_DEPTH:
        raise SchemaError(path, f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, list):
        return [_read_plain(item, f"{path}[{index}]", frames, depth + 1) for index, item in enumerate(value)]
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise SchemaError(path, f"a key is a string, got {shown(wrong[0])}")
        return {key: _read_plain(item, f"{path}.{key}", frames, depth + 1) for key, item in value.items()}
    if type(value) is int:
        return _read_int(value, path)
    if value is None or type(value) in (bool, float, str):
        return value
    raise SchemaError(path, f"expected a string, a number, true or false, a list or a table, got {shown(value)}")


def _read_int(value: int, path: str) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise SchemaError(path, f"expected a whole number of at most 64 bits, got {shown(value)}")
    return value


def _scalar_reader(kind: Any) -> Reader:
    def read(value: Any, path: str, frames: Optional[FrameReader]) -> Any:
        if type(value) is int and kind is int:
            return _read_int(value, path)
        if type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value)
        raise SchemaError(path, f"expected {describe(kind)}, got {shown(value)}")

    return read


def _dataclass_reader(cls: Any) -> Reader:
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}
    required = [
        name
        for name, item in fields.items()
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    readers = {name: reader(hints[name]) for name in fields}
    admitted = {name: hints[name] for name in fields if hints[name] in _WHOLE_TYPES}

    def read(value: Any, path: str, frames: Optional[FrameReader]) -> Any:
        if not isinstance(value, dict):
            raise SchemaError(path, f"expected a table, got {shown(value)}")
        prefix = f"{path}." if path else ""
        found: Dict[str, Any] = {}
        for key, item in value.items():
            if key not in readers:
                raise SchemaError(f"{prefix}{key}", f"unknown key{nearest(str(key)[:_SHOWN_PATH], readers)}")
            found[key] = item if type(item) is admitted.get(key) else readers[key](item, prefix + key, frames)
        for name in required:
            if name not in found:
                raise SchemaError(prefix + name, "this key is missing")
        return cls(**found)

    return read


def nearest(name: str, known: Any) -> str:
    """Return ``"; did you mean ...?"`` for the known name nearest to ``name``, or the list of known names."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    if matches:
        return f"; did you mean {matches[0]!r}?"
    return f"; known keys: {', '.join(sorted(known))}"


def _union_reader(arguments: Tuple[Any, ...]) -> Reader:
    readers = [reader(item) for item in arguments]

    def read(value: Any, path: str, frames: Optional[FrameReader]) -> Any:
        if value is None and type(None) in arguments:
            return None
        for item in readers:
            try:
                return item(value, path, frames)
            except SchemaError as error:
                if error.path != path:
                    raise
        raise SchemaError(path, f"expected {describe(Union[arguments])}, got {shown(value)}")

    return read


def _literal_reader(allowed: Tuple[Any, ...]) -> Reader:
    def read(value: Any, path: str, frames: Optional[FrameReader]) -> Any:
        for item in allowed:
            if type(value) is type(item) and value == item:
                return item
        raise SchemaError(path, f"expected {' or '.join(repr(item) for item in allowed)}, got {shown(value)}")

    return read


def _sequence_reader(annotation: Any, kind: Any) -> Reader:
    item_reader = reader(annotation)
    admitted = frozenset({annotation}) & _WHOLE_TYPES

    def read(value: Any, path: str, frames: Optional[FrameReader]) -> Any:
        if not isinstance(value, list):
            raise SchemaError(path, f"expected a list, got {shown(value)}")
        if admitted.issuperset(map(type, value)):
            return kind(value)
        items: List[Any] = [item_reader(item, f"{path}[{index}]", frames) for index, item in enumerate(value)]
        return tuple(items) if kind is tuple else items

    return read


def _fixed_tuple_reader(arguments: Tuple[Any, ...]) -> Reader:
    readers = [reader(item) for item in arguments]

    def read(value: Any, path: str, frames: Optional[FrameReader]) -> Any:
        if not isinstance(value, list) or len(value) != len(readers):
            raise SchemaError(path, f"expected a list of {len(readers)}, got {shown(value)}")
        return tuple(item(each, f"{path}[{index}]", frames) for index, (item, each) in enumerate(zip(readers, value)))

    return read


def _dict_reader(annotation: Any) -> Reader:
    item_reader = reader(annotation)

    def read(value: Any, path: str, frames: Optional[FrameReader]) -> Any:
        if not isinstance(value, dict):
            raise SchemaError(path, f"expected a table, got {shown(value)}")
        found: Dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise SchemaError(path, f"a key is a string, got {shown(key)}")
            found[key] = item_reader(item, f"{path}.{key}" if path else key, frames)
        return found

    return read
