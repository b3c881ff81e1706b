"""Series over steps, one row a step, as the bytes of their rows: what a run keeps of each of 100,000 steps.

Guarantees: a row comes back with its dtype, its shape and its bits; memory holds the newest `BLOCK_STEPS` rows at most,
all others lie in a file (`spill`).
"""

from __future__ import annotations

import math
import mmap
from abc import abstractmethod
from array import array
from collections.abc import Sequence as AnySequence
from dataclasses import dataclass, field
from typing import Any, Callable, Generic, Iterable, Iterator, List, Optional, Sequence, Tuple, TypeVar, Union, overload

import numpy as np

from stepalign.coordinator.running.spill import Place, Spill

T = TypeVar("T")
V = TypeVar("V")

Packed = Tuple[np.dtype, Tuple[int, ...], bytes]
"""An array as its dtype, its shape and its bytes."""

BLOCK_STEPS = 512

_NUMBER, _FLAG, _BYTE = np.dtype(np.float64), np.dtype(np.bool_), np.dtype(np.uint8)


class Steps(AnySequence[T], Generic[T]):
    """One value for each step from step 0 on, made when it is asked for; equal to any sequence of the same values."""

    @overload
    def __getitem__(self, step: int) -> T: ...

    @overload
    def __getitem__(self, step: slice) -> Tuple[T, ...]: ...

    def __getitem__(self, step: Union[int, slice]) -> Union[T, Tuple[T, ...]]:
        if isinstance(step, slice):
            return tuple(self._at(each) for each in range(*step.indices(len(self))))
        place = step + len(self) if step < 0 else step
        if not 0 <= place < len(self):
            raise IndexError(f"no step {step}: there are {len(self)}")
        return self._at(place)

    def each(self, read: Callable[[T], V]) -> "Steps[V]":
        """Return the series of ``read``'s values for these."""
        return _Read(self, read)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AnySequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(ours == theirs for ours, theirs in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Tuple[Any, ...]:
        return tuple, (tuple(self),)

    @abstractmethod
    def _at(self, step: int) -> T:
        """Return the value of a step that there is."""


class _Read(Steps[V], Generic[T, V]):
    """What a function makes of each value of a series."""

    def __init__(self, series: Steps[T], read: Callable[[T], V]) -> None:
        self._series = series
        self._read = read

    def __len__(self) -> int:
        return len(self._series)

    def __iter__(self) -> Iterator[V]:
        return map(self._read, self._series)

    def _at(self, step: int) -> V:
        return self._read(self._series[step])


@dataclass
class _Run:
    """Successive rows of one dtype and shape: whole blocks, and the rows since."""

    dtype: np.dtype
    shape: Tuple[int, ...]
    spill: Spill
    count: int = 0
    blocks: List[Place] = field(default_factory=list)
    newest: bytearray = field(default_factory=bytearray)

    def append(self, row: bytes) -> None:
        self.newest += row
        self.count += 1
        if self.count % BLOCK_STEPS == 0:
            self.blocks.append(self.spill.put(bytes(self.newest)))
            self.newest = bytearray()

    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def parts(self) -> Iterator[np.ndarray]:
        """Give all rows, some hundred at a time."""
        for place in self.blocks:
            yield self._rows(self.spill.get(place, 0, BLOCK_STEPS * self.row_bytes()), BLOCK_STEPS)
        yield self._rows(bytes(self.newest), self.count % BLOCK_STEPS)

    def row(self, number: int) -> np.ndarray:
        block, place = divmod(number, BLOCK_STEPS)
        start, stop = place * self.row_bytes(), (place + 1) * self.row_bytes()
        is_whole = block < len(self.blocks)
        part = self.spill.get(self.blocks[block], start, stop) if is_whole else bytes(self.newest[start:stop])
        return self._rows(part, 1)[0, ...]

    def _rows(self, data: bytes, count: int) -> np.ndarray:
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape)


class StepSeries(Steps[T]):
    """Rows as they were appended. Subclasses say how a row is an array. Several series may share one ``spill``."""

    def __init__(self, spill: Optional[Spill] = None) -> None:
        self._spill = Spill() if spill is None else spill
        self._runs: List[_Run] = []
        self._count = 0

    def append(self, row: T) -> None:
        """Take the next step's row."""
        dtype, shape, data = self._packed(row)
        if not self._runs or self._runs[-1].dtype != dtype or self._runs[-1].shape != shape:
            self._runs.append(_Run(dtype, shape, self._spill))
        self._runs[-1].append(data)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        for rows in self._parts():
            for number in range(len(rows)):
                yield self._row(rows[number, ...])

    def stacked(self) -> np.ndarray:
        """Return all rows as one array, a row a step, in the dtype that holds them all; no object is made for a step.

        Raises ValueError if the rows have different shapes.
        """
        if not self._runs:
            return np.zeros(0)
        shapes = {run.shape for run in self._runs}
        if len(shapes) > 1:
            raise ValueError(f"rows of different shapes: {sorted(shapes)}")
        return filled_room((len(self), *shapes.pop()), np.result_type(*(run.dtype for run in self._runs)), self._parts())

    def _at(self, step: int) -> T:
        for run in self._runs:
            if step < run.count:
                return self._row(run.row(step))
            step -= run.count
        raise AssertionError("the runs have fewer rows than were counted")

    def _parts(self) -> Iterator[np.ndarray]:
        for run in self._runs:
            yield from run.parts()

    @abstractmethod
    def _packed(self, row: T) -> Packed:
        """Return a row as the array that is kept: its dtype, its shape, its bytes."""

    @abstractmethod
    def _row(self, array: np.ndarray) -> T:
        """Return the row that was kept as ``array``."""


class ArraySeries(StepSeries[np.ndarray]):
    """Arrays, as losses are: each keeps its dtype."""

    def _packed(self, row: np.ndarray) -> Packed:
        return row.dtype, row.shape, row.tobytes()

    def _row(self, array: np.ndarray) -> np.ndarray:
        return array


class NumberSeries(StepSeries[Sequence[float]]):
    """A few float64 numbers a step, as the rates of the groups are."""

    def _packed(self, row: Sequence[float]) -> Packed:
        return _NUMBER, (len(row),), array("d", row).tobytes()

    def _row(self, array: np.ndarray) -> Sequence[float]:
        return tuple(array.tolist())


def filled_room(shape: Tuple[int, ...], dtype: np.dtype, parts: Iterable[np.ndarray]) -> np.ndarray:
    """Return the parts as one array, in pages of its own: they go back to the machine with it, whatever the C library keeps."""
    size_bytes = math.prod(shape) * dtype.itemsize
    if not size_bytes:
        return np.empty(shape, dtype)
    whole = np.frombuffer(mmap.mmap(-1, size_bytes), dtype).reshape(shape)
    start = 0
    for part in parts:
        whole[start : start + len(part)] = part
        start += len(part)
    return whole


class FlagSeries(StepSeries[bool]):
    """Yes or no a step."""

    def _packed(self, row: bool) -> Packed:
        return _FLAG, (), b"\1" if row else b"\0"

    def _row(self, array: np.ndarray) -> bool:
        return bool(array)


class TextSeries(StepSeries[str]):
    """A short text a step, as digests are."""

    def joined(self) -> np.ndarray:
        """Return the bytes of all texts, a line feed between them, as uint8."""
        size_bytes = sum(run.count * (run.row_bytes() + 1) for run in self._runs)
        lines = (np.pad(rows, ((0, 0), (0, 1)), constant_values=ord("\n")).ravel() for rows in self._parts())
        return filled_room((size_bytes,), np.dtype(np.uint8), lines)[:-1]

    def _packed(self, row: str) -> Packed:
        data = row.encode("utf-8", "surrogateescape")
        return _BYTE, (len(data),), data

    def _row(self, array: np.ndarray) -> str:
        return array.tobytes().decode("utf-8", "surrogateescape")
