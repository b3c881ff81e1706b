"""TensorBoard event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from stepalign.coordinator.report.event_files import check_event_files, write_event_files
from stepalign.protocol.errors import CaseError, EnvironmentFailure

from ..made_up_results import aligned, diverged, every_result

pytest.importorskip("tensorboardX", reason="the extra stepalign[tensorboard] is not installed")


def _read(folder: Path) -> Any:
    """Return TensorBoard's accumulator of one run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the reader's own imports
        accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        accumulator = accumulators.EventAccumulator(str(folder), size_guidance={"scalars": 0})
        accumulator.Reload()
    return accumulator


def _values(accumulator: Any, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in accumulator.Scalars(tag)}


def test_both_sides_bear_the_same_tags_and_every_step(tmp_path: Path) -> None:
    result = diverged(steps=50)
    write_event_files(tmp_path, result)
    torch, paddle = _read(tmp_path / "torch"), _read(tmp_path / "paddle")
    assert set(torch.Tags()["scalars"]) == {"loss", "lr", "lr/group_1"}
    assert set(paddle.Tags()["scalars"]) == {"loss", "lr", "lr/group_1", "difference/loss", "difference/lr"}
    assert _values(torch, "loss") == pytest.approx(dict(enumerate(result.series.loss_torch)), rel=1e-6)
    assert _values(paddle, "lr") == pytest.approx(
        {step: rates[0] for step, rates in enumerate(result.series.lr_paddle) if rates}, rel=1e-6
    )
    assert _values(paddle, "difference/loss")[7] == pytest.approx(1e-8, rel=1e-3)
    (verdict,) = paddle.Tensors("verdict/text_summary")
    assert b"diverged" in verdict.tensor_proto.string_val[0]


def test_a_second_run_in_the_same_folder_supersedes_the_first(tmp_path: Path) -> None:
    write_event_files(tmp_path, aligned(steps=20))
    write_event_files(tmp_path, aligned(steps=5))
    assert len(list((tmp_path / "torch").iterdir())) == 2
    assert sorted(_values(_read(tmp_path / "torch"), "loss")) == list(range(5))


@pytest.mark.parametrize("name", every_result())
def test_every_result_can_be_written(name: str, tmp_path: Path) -> None:
    write_event_files(tmp_path, every_result()[name])
    assert list((tmp_path / "paddle").iterdir())


def test_what_is_not_finite_stays_so(tmp_path: Path) -> None:
    write_event_files(tmp_path, every_result()["not finite"])
    losses = _values(_read(tmp_path / "torch"), "loss")
    assert math.isnan(losses[1]) and losses[2] == math.inf


def test_a_missing_library_is_named_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(EnvironmentFailure, match=r"pip install 'stepalign\[tensorboard\]'"):
        check_event_files(tmp_path)


def test_a_folder_that_cannot_be_made_is_told_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CaseError, match="--tensorboard"):
        check_event_files(tmp_path / "file" / "logs")
