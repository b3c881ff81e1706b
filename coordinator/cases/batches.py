"""The batches of a case, owned by the coordinator: loaded once, checked, the same bytes for both sides at every step.

No framework is imported to read them. Floating arrays are widened to float64 in a float64 case; every other dtype is
kept.
"""

from __future__ import annotations

import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

import numpy as np

from stepalign.coordinator.cases.case import Case
from stepalign.protocol.errors import CaseError
from stepalign.protocol.script import ScriptError, call_script, find_function, load_script
from stepalign.protocol.tensors import DTYPES, digest

Batch = Dict[str, np.ndarray]
_EAGER_SIZE_BYTES = 256 << 20


class BatchSource:
    """Gives the batch of each step, again and again if asked; a generator is read ahead only as far as is needed."""

    _digested: Optional[Tuple[Batch, str]] = None
    """The batch digested last, and its digest: one that is reused at every step is digested once."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._kept: List[Batch] = []
        self._constant: Optional[Batch] = None
        self._rest: Optional[Iterator[Any]] = None
        data = case.file.data
        source = data.source or ""
        if data.arrays:
            self._constant = self._checked(_load_arrays(case), "data.arrays", None)
        elif source.endswith(".npz"):
            self._constant = self._checked(_load_npz(case.folder / source), source, None)
        elif source.endswith(".py"):
            self._rest = _open_script(case, case.folder / source)
            self._read_ahead()
        else:
            raise CaseError(f"data.source: expected a .npz or .py file, got {source!r}")

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of ``step``: name -> array. Raises CaseError if the data ends before it.

        Where one update takes in several batches, they are here as one, their arrays named ``0/name``, ``1/name``, ...
        """
        count = self._case.file.accumulate
        if count == 1:
            return self._single(step)
        parts = (self._single(step * count + part) for part in range(count))
        return {f"{part}/{name}": array for part, batch in enumerate(parts) for name, array in batch.items()}

    def _single(self, step: int) -> Batch:
        if self._constant is not None:
            return self._constant
        while len(self._kept) <= step:
            self._kept.append(self._next())
        return self._kept[step]

    def digest(self, step: int) -> str:
        """Return the digest of the bytes of ``step``'s batch."""
        batch = self[step]
        if self._digested is None or self._digested[0] is not batch:
            self._digested = (batch, digest(batch))
        return self._digested[1]

    def _read_ahead(self) -> None:
        """Read all steps now, so that too few batches are known before a worker starts; unless that takes much
        memory.
        """
        first = self._single(0)
        count = self._case.steps * self._case.file.accumulate
        size_bytes = sum(array.nbytes for array in first.values())
        if size_bytes * count <= _EAGER_SIZE_BYTES:
            self._single(count - 1)

    def _next(self) -> Batch:
        assert self._rest is not None
        name, step = Path(self._case.file.data.source or "").name, len(self._kept)
        rest = self._rest
        item = _call(self._case, f"batches(case) of {name}, batch {step},", lambda: next(rest, None))
        if item is None:
            raise CaseError(
                f"{name}: batches(case) gave {step} batches, the case runs {self._case.steps} steps: "
                f"yield at least {self._case.steps * self._case.file.accumulate}, "
                f"or run with --steps {step // self._case.file.accumulate}"
            )
        return self._checked(item, name, step)

    def _checked(self, item: Any, source: str, step: Optional[int]) -> Batch:
        where = source if step is None else f"{source}, batch {step}"
        if not isinstance(item, dict) or not item:
            came = "an empty one" if item == {} else type(item).__name__
            raise CaseError(f"{where}: a batch is a dict of numpy arrays, got {came}")
        batch: Batch = {}
        for name, value in item.items():
            if not isinstance(name, str):
                raise CaseError(f"{where}: a batch's keys are strings, got {name!r}")
            if not isinstance(value, (np.ndarray, np.generic)):
                raise CaseError(f"{where}: {name!r} is a {type(value).__name__}, expected a numpy array")
            array = np.asarray(value)
            if array.dtype.name not in DTYPES:
                raise CaseError(
                    f"{where}: {name!r} has dtype {array.dtype}, expected one of {', '.join(DTYPES)}; "
                    "an object array usually means rows of unequal length: pad them"
                )
            if self._case.file.dtype == "float64" and array.dtype.name in ("float16", "float32"):
                array = array.astype(np.float64)
            batch[name] = np.array(array, order="C", copy=True)
        if step and self._kept and set(batch) != set(self._kept[0]):
            raise CaseError(f"{where}: keys {sorted(batch)} are not those of batch 0, {sorted(self._kept[0])}")
        return batch


def _load_npz(path: Path) -> Batch:
    if not path.is_file():
        raise CaseError(f"data.source: no file {path}")
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise CaseError(
                    f"{path} is a single .npy array: name it under data.arrays, or save with np.savez(..., name=array)"
                )
            if not archive.files:
                raise CaseError(f"{path} holds no arrays: save each by its name with np.savez(..., name=array)")
            return {name: _member(archive, name, path) for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
        raise CaseError(f"{path} is not an .npz archive of plain arrays: {error}") from None


def _member(archive: Any, name: str, path: Path) -> np.ndarray:
    try:
        return np.asarray(archive[name])
    except ValueError as error:
        raise CaseError(
            f"{path}: {name!r} is not a plain array ({error}); an object array cannot be sent: pad its rows"
        ) from None


def _load_arrays(case: Case) -> Batch:
    batch: Batch = {}
    for name, file in case.file.data.arrays.items():
        path = case.folder / file
        if not path.is_file():
            raise CaseError(f"data.arrays.{name}: no file {path}")
        try:
            with open(path, "rb") as stream:
                array = np.load(stream, allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise CaseError(f"data.arrays.{name}: {path} is not a plain .npy array: {error}") from None
        if not isinstance(array, np.ndarray):
            raise CaseError(f"data.arrays.{name}: {path} is an .npz archive, expected one .npy array: use data.source")
        batch[name] = array
    return batch


def _open_script(case: Case, path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise CaseError(f"data.source: no file {path}")
    there = set(sys.modules)
    module = _with_traceback(lambda: load_script(path, case.folder))
    batches = find_function(module, "batches", path)
    given = _call(case, f"batches(case) of {path.name}", lambda: batches(case.view()))
    loaded = [name for name in ("torch", "paddle") if name in sys.modules and name not in there]
    if loaded:
        raise CaseError(f"{path} imports {loaded[0]}: batches belong to the coordinator and are made with numpy alone")
    if not isinstance(given, Iterable):
        raise CaseError(f"batches(case) of {path.name} gave {type(given).__name__}: yield one dict of numpy arrays a step")
    return iter(given)


def _call(case: Case, doing: str, call: Any) -> Any:
    return _with_traceback(lambda: call_script(doing, case.folder, call))


def _with_traceback(call: Any) -> Any:
    try:
        return call()
    except ScriptError as error:
        raise CaseError(f"{error}\n{error.trimmed}".rstrip()) from None


def batch_sizes(batch: Batch) -> List[int]:
    """Return the leading lengths of a batch's arrays, the most common first: the first is the number of samples."""
    lengths = [array.shape[0] for array in batch.values() if array.ndim]
    return sorted(set(lengths), key=lambda length: -lengths.count(length))
