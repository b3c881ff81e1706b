"""Plain values inside a framework's objects, written as JSON and put back. Imports no framework.

Plain are None, booleans, numbers, strings, small numpy values, and lists, tuples and dicts of these. Whatever else an
object holds (functions, tensors, references to other objects) is left as it is. Putting back changes only what differs,
so that a Counter or a list that others hold on to stays the object that it is.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, Mapping, Tuple

import numpy as np

_MAX_ARRAY_SIZE_BYTES = 1 << 16
_MAX_DEPTH = 32
_SCALARS = (bool, int, float, str)

IsPart = Callable[[Any], bool]
"""Says whether a value is an object of the framework's whose own attributes are to be written too."""


class NotPlainError(Exception):
    """A value that has no plain form."""


def nothing_inside(value: Any) -> bool:
    """Say of every value that it is no part: an `IsPart`."""
    return False


def dump(value: Any) -> str:
    """Return what `encode` gave as JSON text; numbers that are not finite are written as Python's json does."""
    return json.dumps(value, separators=(",", ":"))


def load(text: str) -> Any:
    """Return what `dump` wrote."""
    return json.loads(text)


def encode(value: Any, is_part: IsPart = nothing_inside, depth: int = 0) -> Any:
    """Return ``value`` as JSON can hold it, exact to the last bit. Raises NotPlainError."""
    if depth > _MAX_DEPTH:
        raise NotPlainError("nested too deep")
    if value is None or type(value) in _SCALARS:
        return value
    if type(value) is list:
        return [encode(item, is_part, depth + 1) for item in value]
    if type(value) is tuple:
        return {"tuple": [encode(item, is_part, depth + 1) for item in value]}
    if isinstance(value, dict):
        pairs = [[encode(key, is_part, depth + 1), encode(item, is_part, depth + 1)] for key, item in value.items()]
        return {"dict": pairs}
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind not in "biufc" or array.nbytes > _MAX_ARRAY_SIZE_BYTES:
            raise NotPlainError(f"an array of {array.dtype}, {array.nbytes} bytes")
        written = np.ascontiguousarray(array)
        name = "scalar" if isinstance(value, np.generic) else "array"
        return {name: [array.dtype.str, list(array.shape), written.tobytes().hex()]}
    if is_part(value):
        return {"object": encode_attributes(vars(value), is_part, (), depth + 1)}
    raise NotPlainError(type(value).__name__)


def decode(written: Any) -> Any:
    """Return the value that `encode` wrote; of an object, its attributes as a dict."""
    if isinstance(written, list):
        return [decode(item) for item in written]
    if not isinstance(written, dict):
        return written
    ((kind, content),) = written.items()
    if kind == "tuple":
        return tuple(decode(item) for item in content)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    if kind in ("scalar", "array"):
        dtype, shape, data = content
        array = np.frombuffer(bytes.fromhex(data), np.dtype(dtype)).reshape(shape).copy()
        return array if kind == "array" else array[()]
    return {name: decode(item) for name, item in content.items()}


def encode_attributes(
    values: Mapping[str, Any], is_part: IsPart = nothing_inside, without: Tuple[str, ...] = (), depth: int = 0
) -> Dict[str, Any]:
    """Return the plain ones of named ``values``, encoded; what is not plain, or is named in ``without``, is left out."""
    found: Dict[str, Any] = {}
    for name, value in values.items():
        if name in without:
            continue
        try:
            found[name] = encode(value, is_part, depth + 1)
        except NotPlainError:
            continue
    return found


def restore_attributes(values: Dict[str, Any], written: Mapping[str, Any], is_part: IsPart = nothing_inside) -> None:
    """Give ``values`` what `encode_attributes` wrote of them."""
    for name, item in written.items():
        values[name] = _restored(values.get(name), item, is_part)


def _restored(present: Any, written: Any, is_part: IsPart) -> Any:
    """Return ``present`` itself where it says the same, or can be brought to; else the value that was written."""
    try:
        if encode(present, is_part) == written:
            return present
    except NotPlainError:
        pass
    if isinstance(written, dict) and "object" in written and is_part(present):
        restore_attributes(vars(present), written["object"], is_part)
        return present
    if isinstance(written, list) and type(present) is list and len(present) == len(written):
        present[:] = [_restored(*pair, is_part) for pair in zip(present, written)]
        return present
    if isinstance(written, dict) and "dict" in written and isinstance(present, dict):
        saved = {decode(key): item for key, item in written["dict"]}
        for key in [key for key in present if key not in saved]:
            del present[key]
        for key, item in saved.items():
            present[key] = _restored(present.get(key), item, is_part)
        return present
    return decode(written)
