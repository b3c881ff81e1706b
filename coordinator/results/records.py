"""The run folder on disk: its creation, `steps.jsonl` and `result.json`.

Guarantees: a run folder belongs to one run; a reader never sees half of a file that is written whole; a line of
`steps.jsonl` is complete once its newline is there; all JSON is strict, with numbers that are not finite as the
strings "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import errno
import fcntl
import itertools
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Optional

import numpy as np

from stepalign.protocol.errors import CaseError, EnvironmentFailure

RESULT_NAME = "result.json"
STEPS_NAME = "steps.jsonl"
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_JOINED_PIECES = 1000
_NO_LISTS = (str, bytes, bytearray, memoryview)
_MAX_NAME_BYTES = 120
_MAX_SUFFIX = 1000
_BLOCK_BYTES = 1 << 16
_LINE = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False)


def to_strict(value: Any) -> Any:
    """Turn ``value`` into plain JSON values: numpy scalars and arrays, enums, paths and tuples become what they hold.

    A float keeps its value to the last bit; one that is not finite becomes its string. Raises TypeError for the rest.
    """
    if isinstance(value, enum.Enum):
        return to_strict(value.value)
    if isinstance(value, np.longdouble):  # its own item() is a longdouble again
        return to_strict(float(value))
    if isinstance(value, (np.generic, np.ndarray)):
        return to_strict(value.tolist())
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _not_finite_name(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key): to_strict(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, _NO_LISTS):
        return [to_strict(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a JSON key must be str, not {type(key).__name__}: {key!r}")
    return str(key)


def _not_finite_name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def from_strict_number(value: Any) -> float:
    """Give the float that `to_strict` wrote. Raises ValueError for anything that is not such a number."""
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"expected a number or one of {', '.join(_NOT_FINITE)}, found {value!r}")


def create_run_folder(
    case_name: str, *, now: datetime.datetime, root: Path = Path("runs"), out: Path | None = None
) -> Path:
    """Create the folder of one run and return it; `steps.jsonl` is there, empty, as the sign that the folder is taken.

    Without ``out`` it is ``root/<case>-<YYYYmmdd-HHMMSS>``, with -2, -3, ... behind it where that exists. ``out`` must
    be new or an empty folder: an earlier run is never overwritten or mixed into. Both ways are exclusive, so that two
    runs at once never share a folder. ``now`` is local time. Raises CaseError when no such folder can be had.
    """
    if out is not None:
        return _take_folder(out)
    stem = f"{_safe_name(case_name)}-{now:%Y%m%d-%H%M%S}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for number in range(1, _MAX_SUFFIX):
            folder = root / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            _claim(folder)
            return folder
    except OSError as error:
        raise CaseError(_cannot_create(root, error)) from error
    raise CaseError(f"{root}: {stem} and its {_MAX_SUFFIX} successors exist. Name a new folder with --out DIR.")


def _take_folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = sorted(entry.name for entry in out.iterdir())
        if held:
            is_run = not {RESULT_NAME, STEPS_NAME}.isdisjoint(held)
            found = "a run's files" if is_run else f"other files in it ({held[0]}, ...)"
            raise CaseError(f"--out {out}: expected a new or empty folder, found {found}. Name another or delete it.")
        _claim(out)
    except FileExistsError:
        found = "another run has just taken it" if out.is_dir() else "it is not a folder"
        raise CaseError(f"--out {out}: expected a new or empty folder, but {found}. Name another folder.") from None
    except OSError as error:
        raise CaseError(_cannot_create(out, error)) from error
    return out


def _claim(folder: Path) -> None:
    with open(folder / STEPS_NAME, "xb"):
        pass


def _cannot_create(folder: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{folder}: cannot make a run folder there: {reason}. Name a folder that you can write to with --out DIR."


def _safe_name(case_name: str) -> str:
    """Make one plain folder name of a case's name: a received name never becomes a path."""
    plain = re.sub(r"[^\w.+-]+", "_", case_name).strip("._-") or "case"
    return plain.encode("utf-8", "replace")[:_MAX_NAME_BYTES].decode("utf-8", "ignore")


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file whole, piece by piece: whoever reads ``path`` sees the old content or the new.

    Raises EnvironmentFailure.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        try:
            with open(temporary, "xb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        _raise_unwritable(path, error)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole, as `write_pieces` does."""
    write_pieces(path, [content])


def write_text(path: Path, text: Iterable[str]) -> None:
    """Write a text file, in one piece or in many, in UTF-8 with "\\n" line ends, as `write_pieces` does."""
    pieces = iter([text] if isinstance(text, str) else text)
    joined = iter(lambda: "".join(itertools.islice(pieces, _JOINED_PIECES)), "")
    write_pieces(path, (piece.encode("utf-8", "backslashreplace") for piece in joined))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as strict, indented JSON, value by value, as `write_pieces` does; `to_strict` says what it may hold."""
    write_text(path, itertools.chain(json_pieces(value), ["\n"]))


def json_pieces(value: Any, margin: str = "\n") -> Iterator[str]:
    """Give `json.dumps(to_strict(value), indent=1, allow_nan=False)` piece by piece."""
    if isinstance(value, (enum.Enum, np.generic, np.ndarray)):
        value = to_strict(value)
    inner = margin + " "
    if isinstance(value, Mapping) and value:
        opening = "{"
        for key, item in value.items():
            yield f"{opening}{inner}{json.dumps(_key(key))}: "
            yield from json_pieces(item, inner)
            opening = ","
        yield margin + "}"
    elif isinstance(value, Sequence) and not isinstance(value, _NO_LISTS) and value:
        opening = "["
        for item in value:
            row = _row_of_numbers(item, inner)
            if row is None:
                yield f"{opening}{inner}"
                yield from json_pieces(item, inner)
            else:
                yield f"{opening}{inner}{row}"
            opening = ","
        yield margin + "]"
    else:
        yield json.dumps(to_strict(value), allow_nan=False)


def _row_of_numbers(item: Any, margin: str) -> Optional[str]:
    """Give what a long series is made of in one piece: a finite float, or a row of some; None for anything else."""
    if type(item) is float:
        return repr(item) if math.isfinite(item) else None
    if type(item) is not tuple or not item or not all(type(number) is float and math.isfinite(number) for number in item):
        return None
    inner = margin + " "
    return f"[{inner}{f',{inner}'.join(map(repr, item))}{margin}]"


def read_result(path: Path) -> dict[str, Any]:
    """Read result.json; ``path`` is the file or its run folder. Raises CaseError for anything but a JSON object."""
    file = path / RESULT_NAME if path.is_dir() else path
    try:
        content = file.read_bytes()
    except OSError as error:
        advice = "The run may not have ended; give a folder that holds result.json."
        raise CaseError(f"{file}: cannot be read: {error.strerror}. {advice}") from error
    return _parse_object(content, str(file))


class StepsLog:
    """`steps.jsonl`, open for appending: one line a step, in the file as soon as `append` returns.

    A torn last line of an interrupted run is cut off at opening, and after a write that failed. Raises CaseError while
    another run writes it: an advisory lock, which ends with its process, however that ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by close and by the with statement)
        except OSError as error:
            _raise_unwritable(path, error)
        try:
            _take_alone(self._file, path)
            _cut_torn_line(self._file)
        except CaseError:
            self._file.close()
            raise
        except OSError as error:
            self._file.close()
            _raise_unwritable(path, error)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line, whole. Raises EnvironmentFailure where the disk takes no more."""
        line = _as_line(record)
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                _cut_torn_line(self._file)
            _raise_unwritable(self._path, error)

    def sync(self) -> None:
        """Have all lines on the disk, where a power failure leaves them. Raises OSError."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    def __enter__(self) -> StepsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _as_line(record: Mapping[str, Any]) -> bytes:
    """Return a record as strict JSON. One of plain values needs no `to_strict`, whose Python costs more than the encoder."""
    try:
        text = _LINE.encode(record)
    except (TypeError, ValueError):
        text = _LINE.encode(to_strict(record))
    return text.encode() + b"\n"


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Read steps.jsonl; ``path`` is the file or its run folder. A last line without its newline is torn, and dropped.

    Raises CaseError, with the line's number, for any other line that is not a JSON object.
    """
    return list(iterate_steps(path))


def iterate_steps(path: Path, first: int = 0) -> Iterator[dict[str, Any]]:
    """Read steps.jsonl line by line, from line ``first`` on, as `read_steps` does."""
    file = path / STEPS_NAME if path.is_dir() else path
    try:
        with open(file, "rb") as stream:
            for number, line in enumerate(stream):
                if number >= first and line.endswith(b"\n"):
                    yield _parse_object(line, f"{file}, line {number + 1}")
    except OSError as error:
        raise CaseError(f"{file}: cannot be read: {error.strerror}. Give a run folder.") from error


def _take_alone(file: FileIO, path: Path) -> None:
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CaseError(f"{path.parent}: a run is still writing there. Wait for its end, or end it.") from None
    except OSError:
        return  # a file system without locks


def _cut_torn_line(file: FileIO) -> None:
    """Shorten ``file`` to the end of its last whole line, found from the end in blocks."""
    size = file.seek(0, os.SEEK_END)
    end = size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        file.truncate(end)


def _parse_object(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CaseError(f"{where}: expected strict JSON: {error}. The file is damaged or not stepalign's.") from None
    if not isinstance(value, dict):
        raise CaseError(f"{where}: expected a JSON object, found {type(value).__name__}.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} outside a string")


_ADVICE = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some of your quota",
    errno.EFBIG: "Raise the limit on a file's size (ulimit -f)",
    errno.EROFS: "Make its file system writable again",
}


def _raise_unwritable(path: Path, error: OSError) -> NoReturn:
    advice = _ADVICE.get(error.errno or 0, "Check that its folder is still there")
    reason = error.strerror or str(error)
    message = f"{path}: cannot be written: {reason}. {advice}, or name another folder with --out DIR."
    raise EnvironmentFailure(message) from error
