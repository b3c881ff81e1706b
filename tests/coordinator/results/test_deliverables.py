"""The files of a long run are written step by step: memory does not grow with the steps."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from stepalign.coordinator.report import page
from stepalign.coordinator.results.deliverables import write_loss_log, write_rate_log, write_result
from stepalign.coordinator.results.records import StepsLog, json_pieces, to_strict
from stepalign.coordinator.results.reprod_npy import read_reprod_npy
from stepalign.coordinator.running.recorder import Record
from stepalign.coordinator.running.verdict import series_of

from ..made_up_results import aligned

GROWTH_BYTES = 100
"""A step's share of the peak: some curves of float64 while the report is made."""


def written(folder: Path, steps: int) -> Record:
    """Write the files of a run of so many steps; return what it had."""
    record = Record()
    with StepsLog(folder / "steps.jsonl") as log:
        for step in range(steps):
            for side in (0, 1):
                record.losses[side].append(np.array(math.exp(-step / steps), np.float32))
                record.rates[side].append((1e-3, step / steps))
                record.batch_digests[side].append(f"{step:032x}")
            record.loss_passed.append(step != 7)
            record.rate_passed.append(True)
            if step < 10:
                log.append({"step": step, "passed": True})
    result = aligned(steps)
    assert result.torch is not None and result.paddle is not None
    result = dataclasses.replace(
        result,
        series=series_of(record),
        torch=dataclasses.replace(result.torch, batch_digests=record.batch_digests[0]),
        paddle=dataclasses.replace(result.paddle, batch_digests=record.batch_digests[1]),
    )
    write_result(folder, result)
    write_loss_log(folder, record)
    write_rate_log(folder, record.rates, record.rate_passed)
    return record


def test_every_file_holds_every_step(tmp_path: Path) -> None:
    record = written(tmp_path, 2500)
    plain = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert plain["series"]["loss"]["torch"] == [float(loss) for loss in record.losses[0]]
    assert plain["series"]["lr"]["paddle"] == [list(rates) for rates in record.rates[1]]
    assert plain["sides"]["torch"]["batch_digests"] == list(record.batch_digests[0])
    assert (tmp_path / "result.json").read_text(encoding="utf-8") == json.dumps(plain, indent=1) + "\n"
    losses = read_reprod_npy(tmp_path / "bp_align_torch.npy")
    assert list(losses) == [f"loss_{step}" for step in range(2500)]
    assert losses["loss_2499"].tobytes() == record.losses[0][-1].tobytes() and losses["loss_0"].shape == ()
    loaded = np.load(tmp_path / "lr_align_paddle.npy", allow_pickle=True).item()
    assert loaded["step_2100_lr"].tolist() == list(record.rates[1][2100])
    log = (tmp_path / "bp_align_diff.log").read_text(encoding="utf-8")
    assert re.findall(r"check passed: False", log) == ["check passed: False"] and log.endswith("diff check failed\n")
    assert (tmp_path / "scheduler_diff.log").read_text(encoding="utf-8").endswith("diff check passed\n")
    assert len((tmp_path / "losses.md").read_text(encoding="utf-8").splitlines()) == 2500 + 6


def test_memory_while_writing_does_not_hold_the_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_plotly", lambda: "")  # it takes more than all else, whatever the steps
    peaks = []
    for steps in (100, 1000, 6000):  # the first imports what is needed
        (folder := tmp_path / str(steps)).mkdir()
        tracemalloc.start()
        try:
            written(folder, steps)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert (peaks[2] - peaks[1]) / 5000 < GROWTH_BYTES
    assert (tmp_path / "6000" / "report.html").stat().st_size < 1.5 * (tmp_path / "1000" / "report.html").stat().st_size


@pytest.mark.parametrize("value", [{}, [], (), {"a": [], "b": {}, "c": [1, [2.5, math.inf], "ü", None, True]}, 1.5, "x"])
def test_what_is_written_piece_by_piece_is_the_json_of_the_whole(value: object) -> None:
    assert "".join(json_pieces(value)) == json.dumps(to_strict(value), indent=1, allow_nan=False)
