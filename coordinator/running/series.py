"""Series over steps, one row a step, as the bytes of their rows: what a run keeps of each of 100,000 steps.

Guarantees: a row comes back with its dtype, its shape and its bits; a step costs the bytes of its row.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Generic, Iterator, List, Sequence, Tuple, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass
class _Run:
    """Successive rows of one dtype and shape."""

    dtype: np.dtype
    shape: Tuple[int, ...]
    count: int = 0
    data: bytearray = field(default_factory=bytearray)

    def rows(self) -> np.ndarray:
        return np.frombuffer(bytes(self.data), self.dtype).reshape(self.count, *self.shape)

    def row(self, number: int) -> np.ndarray:
        size_bytes = self.dtype.itemsize * math.prod(self.shape)
        part = bytes(self.data[number * size_bytes : (number + 1) * size_bytes])
        return np.frombuffer(part, self.dtype).reshape(self.shape)


class StepSeries(ABC, Generic[T]):
    """One row for each step from step 0 on. Subclasses say how a row is an array."""

    def __init__(self) -> None:
        self._runs: List[_Run] = []
        self._count = 0

    def append(self, row: T) -> None:
        """Take the next step's row."""
        array = self._array(row)
        if not self._runs or (self._runs[-1].dtype, self._runs[-1].shape) != (array.dtype, array.shape):
            self._runs.append(_Run(array.dtype, array.shape))
        self._runs[-1].data += array.tobytes()
        self._runs[-1].count += 1
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, step: int) -> T:
        if not 0 <= step < self._count:
            raise IndexError(f"no step {step}: there are {self._count}")
        for run in self._runs:
            if step < run.count:
                return self._row(run.row(step))
            step -= run.count
        raise AssertionError("the runs have fewer rows than were counted")

    def __iter__(self) -> Iterator[T]:
        for run in self._runs:
            rows = run.rows()
            for number in range(run.count):
                yield self._row(rows[number, ...])

    def stacked(self) -> np.ndarray:
        """Return all rows as one array, a row a step, in the dtype that holds them all; no object is made for a step.

        Raises ValueError if the rows have different shapes.
        """
        return np.concatenate([run.rows() for run in self._runs]) if self._runs else np.zeros(0)

    @abstractmethod
    def _array(self, row: T) -> np.ndarray:
        """Return a row as the array that is kept."""

    @abstractmethod
    def _row(self, array: np.ndarray) -> T:
        """Return the row that was kept as ``array``."""


class ArraySeries(StepSeries[np.ndarray]):
    """Arrays, as losses are: each keeps its dtype."""

    def _array(self, row: np.ndarray) -> np.ndarray:
        return row

    def _row(self, array: np.ndarray) -> np.ndarray:
        return array


class NumberSeries(StepSeries[Sequence[float]]):
    """A few float64 numbers a step, as the rates of the groups are."""

    def _array(self, row: Sequence[float]) -> np.ndarray:
        return np.array(row, np.float64)

    def _row(self, array: np.ndarray) -> Sequence[float]:
        numbers: List[float] = array.tolist()
        return numbers


class TextSeries(StepSeries[str]):
    """A short text a step, as digests are."""

    def joined(self) -> np.ndarray:
        """Return the bytes of all texts, a line feed between them, as uint8."""
        lines = [np.pad(run.rows(), ((0, 0), (0, 1)), constant_values=ord("\n")).ravel() for run in self._runs]
        return np.concatenate(lines)[:-1] if lines else np.zeros(0, np.uint8)

    def _array(self, row: str) -> np.ndarray:
        return np.frombuffer(row.encode("utf-8", "surrogateescape"), np.uint8)

    def _row(self, array: np.ndarray) -> str:
        return array.tobytes().decode("utf-8", "surrogateescape")
