"""The STEP4 deliverables: the arrays that reprod_log reads, the two logs in its exact format, and `losses.md`.

Guarantees: a log agrees line by line with what reprod_log 1.0.1 itself reports on the two files, wherever the two
decisions agree; nothing is zipped short: a key that one side lacks is a failing row under its own name. Files are written
step by step.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np

from stepalign.coordinator.results.records import write_text
from stepalign.coordinator.results.result import Result, SideFacts

_HEADING = ("step", "torch loss", "paddle loss", "difference")
_MISSING = "missing"
T = TypeVar("T")
_NOT_A_NUMBER: np.generic = np.float64(np.nan)


@dataclass(frozen=True)
class DiffRow:
    """One key of a log: whether it passed, and the mean absolute difference, in the dtype that reprod_log computes."""

    key: str
    passed: bool
    value: np.generic


class StepValues(Mapping[str, T], Generic[T]):
    """What there is of each step, under a name that bears the step, in the order of steps; read as it is asked for."""

    def __init__(
        self, before: str, after: str, values: Mapping[int, Any] | Sequence[Any], read: Callable[[Any], T]
    ) -> None:
        self._before = before
        self._after = after
        self._values = values
        self._steps = sorted(values) if isinstance(values, Mapping) else range(len(values))
        self._read = read

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[str]:
        return map(self._name, self._steps)

    def __getitem__(self, name: str) -> T:
        digits = name[len(self._before) : len(name) - len(self._after)]
        step = int(digits) if digits.isdecimal() else -1
        if name != self._name(step) or step not in self._steps:
            raise KeyError(name)
        return self._read(self._values[step])

    def _name(self, step: int) -> str:
        return f"{self._before}{step}{self._after}"


def loss_arrays(losses: Mapping[int, np.ndarray] | Sequence[np.ndarray]) -> StepValues[np.ndarray]:
    """Name losses, given by step, as STEP4 does: ``loss_0``, ``loss_1``, ... in the order of steps; dtypes are kept."""
    return StepValues("loss_", "", losses, np.asarray)


def lr_arrays(rates: Mapping[int, Sequence[float]] | Sequence[Sequence[float]]) -> StepValues[np.ndarray]:
    """Name rates, given by step as one a group, as STEP4 does: ``step_100_lr``, ...; each is float64 of [groups]."""
    return StepValues("step_", "_lr", rates, lambda groups: np.array(groups, dtype=np.float64))


def diff_rows(
    torch: Mapping[str, np.ndarray],
    paddle: Mapping[str, np.ndarray],
    agree: Callable[[str, np.ndarray, np.ndarray], bool],
) -> Iterator[DiffRow]:
    """Compare two sides' arrays by name, one by one: torch's keys in their order, then those that paddle alone has.

    ``agree(key, torch, paddle)`` decides by the kind's tolerance, and is asked only where shape and dtype are the same.
    """
    for key in itertools.chain(torch, (key for key in paddle if key not in torch)):
        if key not in torch or key not in paddle:
            yield DiffRow(key, False, np.float64(np.nan))
            continue
        ours, theirs = torch[key], paddle[key]
        same_form = ours.shape == theirs.shape and ours.dtype == theirs.dtype
        yield DiffRow(key, same_form and bool(agree(key, ours, theirs)), mean_difference(ours, theirs))


def mean_difference(torch: np.ndarray, paddle: np.ndarray) -> np.generic:
    """Compute mean(|torch - paddle|) in the arrays' own dtype, as compute_diff of reprod_log 1.0.1 does.

    NaN where shapes differ: reprod_log would broadcast or transpose, and that difference has no meaning.
    """
    if torch.shape != paddle.shape or torch.size == 0:
        return _NOT_A_NUMBER
    if torch.dtype.kind not in "fc" or paddle.dtype.kind not in "fc":
        torch, paddle = torch.astype(np.float64), paddle.astype(np.float64)
    with np.errstate(all="ignore"):
        return cast(np.generic, np.abs(torch - paddle).mean())


def write_diff_log(
    path: Path,
    rows: Iterable[DiffRow],
    passed: bool,
    clock: Callable[[], datetime.datetime] = datetime.datetime.now,
) -> None:
    """Write a log in the format of reprod_log 1.0.1's ``ReprodDiffHelper.report``; ``clock`` gives local time.

    The last line says passed only if ``passed`` is true, there are rows, and every one of them passed.
    """
    write_text(path, (f"[{clock():%Y/%m/%d %H:%M:%S}] root INFO: {message}\n" for message in _messages(rows, passed)))


def _messages(rows: Iterable[DiffRow], passed: bool) -> Iterator[str]:
    count = failed = 0
    for row in rows:
        yield f"{row.key}: "
        yield f"\tmean diff: check passed: {row.passed}, value: {row.value}"
        count, failed = count + 1, failed + (not row.passed)
    yield f"diff check {'passed' if passed and count and not failed else 'failed'}"


def write_losses_md(path: Path, result: Result, loss_dtype: str | None = None) -> None:
    """Write the table that ports are reviewed by."""
    write_text(path, _losses_lines(result, loss_dtype))


def losses_markdown(result: Result, loss_dtype: str | None = None) -> str:
    """Give the table that ports are reviewed by, as `write_losses_md` writes it."""
    return "".join(_losses_lines(result, loss_dtype))


def _losses_lines(result: Result, loss_dtype: str | None) -> Iterator[str]:
    """Give the verdict and the versions, then a row a step: torch loss, paddle loss, |difference|, in Markdown.

    ``loss_dtype`` is the losses' own dtype where it is not the case's. A loss is written with as many digits as bring
    back its exact value in that dtype; a difference is computed in it, so that it equals the log's.
    """
    case = result.case
    number = _scalar_type(loss_dtype or case.dtype)
    series = result.series
    head = [
        f"**{_cell(case.name)}: {result.verdict.value}**, {result.steps_completed} of {case.steps} steps,"
        f" {case.mode}, {case.dtype}",
        "",
        f"stepalign {result.stepalign}, {_version('torch', result.torch)}, {_version('paddle', result.paddle)}",
        "",
        f"| {' | '.join(_HEADING)} |",
        "| ---: | ---: | ---: | ---: |",
    ]
    yield from (f"{line}\n" for line in head)
    for step, losses in enumerate(itertools.zip_longest(series.loss_torch, series.loss_paddle)):
        torch, paddle = (None if loss is None else number(loss) for loss in losses)
        difference = None if torch is None or paddle is None else mean_difference(np.asarray(torch), np.asarray(paddle))
        yield f"| {step} | {_written(torch)} | {_written(paddle)} | {_written(difference)} |\n"


def _scalar_type(dtype: str) -> type[np.floating]:
    """Give numpy's type of that name, or float64 for one that numpy lacks (bfloat16), whose values it holds exactly."""
    known: dict[str, type[np.floating]] = {"float16": np.float16, "float32": np.float32}
    return known.get(dtype, np.float64)


def _version(framework: str, side: SideFacts | None) -> str:
    return f"{framework} not started" if side is None else f"{framework} {_cell(side.version)} ({_cell(side.device)})"


def _written(value: np.generic | None) -> str:
    if value is None:
        return _MISSING
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(str(value), str(value))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
