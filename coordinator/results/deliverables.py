"""Writes the files of a run folder that people hand over: both STEP4 logs with their .npy pairs, losses.md,
report.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from stepalign.coordinator.processes.machine_trouble import machine_trouble
from stepalign.coordinator.report import write_report
from stepalign.coordinator.results.reprod_npy import write_reprod_npy
from stepalign.coordinator.results.result import Result
from stepalign.coordinator.results.result_json import write_result_json
from stepalign.coordinator.results.step4 import (
    StepValues,
    diff_rows,
    loss_arrays,
    lr_arrays,
    write_diff_log,
    write_losses_md,
)
from stepalign.coordinator.running.recorder import Record
from stepalign.protocol.errors import StepalignError

Rates = Union[Mapping[int, Sequence[float]], Sequence[Sequence[float]]]
"""The rates of every group, by step."""


def attempt(*writers: Callable[[], None]) -> Optional[StepalignError]:
    """Call each writer, the others too where one fails, and return the first failure."""
    first: Optional[StepalignError] = None
    for write in writers:
        try:
            write()
        except StepalignError as error:
            first = first or error
        except MemoryError as error:
            first = first or machine_trouble(error)
    return first


def write_result(folder: Path, result: Result) -> None:
    """Write result.json and the views that are made of it alone."""
    failure = attempt(
        lambda: write_result_json(folder / "result.json", result),
        lambda: None if result.regimes else write_losses_md(folder / "losses.md", result),
        lambda: write_report(folder / "report.html", result),
    )
    if failure is not None:
        raise failure


def write_loss_log(folder: Path, record: Record) -> None:
    """Write bp_align_torch.npy, bp_align_paddle.npy and bp_align_diff.log."""
    sides = [loss_arrays(losses) for losses in record.losses]
    _write_pair(folder, "bp_align", sides, "bp_align_diff.log", StepValues("loss_", "", record.loss_passed, bool))


def write_rate_log(
    folder: Path, rates: Tuple[Rates, Rates], passed: Union[Mapping[int, bool], Sequence[bool]]
) -> None:
    """Write lr_align_torch.npy, lr_align_paddle.npy and scheduler_diff.log; all is by step."""
    sides = [lr_arrays(side) for side in rates]
    _write_pair(folder, "lr_align", sides, "scheduler_diff.log", StepValues("step_", "_lr", passed, bool))


def _write_pair(
    folder: Path, stem: str, sides: Sequence[Mapping[str, np.ndarray]], log: str, passed: Mapping[str, bool]
) -> None:
    torch, paddle = sides
    if not torch and not paddle:
        return
    write_reprod_npy(folder / f"{stem}_torch.npy", torch)
    write_reprod_npy(folder / f"{stem}_paddle.npy", paddle)
    rows = diff_rows(torch, paddle, lambda key, ours, theirs: passed[key])
    write_diff_log(folder / log, rows, True)
