"""TensorBoard event files of a run: both sides' losses and rates under the same tags, so that each chart shows both.

Guarantees: ``torch/`` and ``paddle/`` below the folder hold the tags ``loss`` and ``lr`` (``lr/group_1`` and so on for
further groups); ``paddle/`` holds ``difference/loss`` and ``difference/lr`` too, relative to torch, and the verdict as
text. Events of an earlier run in the same folder are superseded, not deleted: TensorBoard leaves them out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from stepalign.coordinator.report import wording
from stepalign.coordinator.report.rows import relative, step_count, step_row
from stepalign.coordinator.results.result import Result
from stepalign.protocol.errors import CaseError, EnvironmentFailure

Scalars = dict[str, list[tuple[int, float]]]
"""Values by tag, each with its step."""


def check_event_files(folder: Path) -> None:
    """Raise before a run of hours that its event files cannot be written: the library or the folder is missing."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise EnvironmentFailure(
            "--tensorboard: the package tensorboardX is not installed beside stepalign: "
            "pip install 'stepalign[tensorboard]'"
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CaseError(f"--tensorboard {folder}: cannot be written: {error.strerror}; name another folder") from None
    if not os.access(folder, os.W_OK):
        raise CaseError(f"--tensorboard {folder}: cannot be written to; name another folder")


def write_event_files(folder: Path, result: Result) -> None:
    """Write ``folder/torch`` and ``folder/paddle``; `check_event_files` says beforehand whether that will work."""
    series = result.series
    torch = {**_losses(series.loss_torch), **_rates(series.lr_torch)}
    paddle = {**_losses(series.loss_paddle), **_rates(series.lr_paddle), **_differences(result)}
    _write(folder / "torch", torch, "")
    _write(folder / "paddle", paddle, _summary(result))


def _losses(losses: Sequence[float | None]) -> Scalars:
    return {"loss": [(step, loss) for step, loss in enumerate(losses) if loss is not None]}


def _rates(rates: Sequence[Sequence[float] | None]) -> Scalars:
    tags: Scalars = {}
    for step, groups in enumerate(rates):
        for group, rate in enumerate(groups or ()):
            tags.setdefault("lr" if group == 0 else f"lr/group_{group}", []).append((step, rate))
    return tags


def _differences(result: Result) -> Scalars:
    """Return the relative difference of losses and of the rates that are furthest apart, at steps that both have."""
    tags: Scalars = {"difference/loss": [], "difference/lr": []}
    for step in range(step_count(result.series)):
        row = step_row(result.series, step)
        for tag, value in (
            ("difference/loss", relative(row.torch_loss, row.paddle_loss)),
            ("difference/lr", row.rate_difference),
        ):
            if value is not None:
                tags[tag].append((step, value))
    return tags


def _summary(result: Result) -> str:
    lines = [f"**{wording.verdict_words(result.verdict)}**: {wording.headline(result)}", wording.case_line(result)]
    if result.first_divergence is not None:
        lines.append(wording.place_line(result.first_divergence))
    return wording.plain("\n\n".join(lines))


def _write(folder: Path, scalars: Scalars, text: str) -> None:
    from tensorboardX import SummaryWriter

    unique = f".{time.time_ns()}"  # names are made of seconds otherwise, and two runs may end in one
    with SummaryWriter(str(folder), purge_step=0, filename_suffix=unique) as writer:
        for tag, values in scalars.items():
            for step, value in values:
                writer.add_scalar(tag, value, step)
        if text:
            writer.add_text("verdict", text, 0)
