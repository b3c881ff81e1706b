"""A run that was ended before it wrote a result is reported from what it left: failed, with what its steps say."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from stepalign.coordinator.cli.main import main
from stepalign.coordinator.results.interrupted import is_running, load_or_rebuild
from stepalign.protocol.errors import CaseError

CASE = {"folder": "/cases/bert", "case": {"name": "bert", "steps": 6, "mode": "eval", "dtype": "float32", "seed": 0}}


def line(step: int, passed: bool = True, loss: Any = 0.5) -> dict[str, Any]:
    failures = [] if passed else [{"kind": "parameter", "torch_name": "fc.bias", "paddle_name": "fc.bias", "reason": "2 of 3"}]
    return {
        "step": step, "passed": passed, "lr": {"torch": [0.1], "paddle": [0.1]}, "loss": {"torch": loss, "paddle": 0.5},
        "failures": failures,
    }  # fmt: skip


def run_folder(tmp_path: Path, *lines: dict[str, Any], torn: str = "", case: Any = CASE) -> Path:
    text = "".join(json.dumps(item) + "\n" for item in lines) + torn
    (tmp_path / "steps.jsonl").write_text(text, encoding="utf-8")
    if case is not None:
        (tmp_path / "case.json").write_text(json.dumps(case), encoding="utf-8")
    return tmp_path


def test_the_finished_steps_of_an_interrupted_run_are_reported(tmp_path: Path) -> None:
    found = load_or_rebuild(run_folder(tmp_path, line(0), line(1, loss="NaN"), torn='{"step": 2, "pas'))
    assert (found.verdict.value, found.exit_code, found.steps_completed) == ("failed", 130, 2)
    assert found.error is not None and found.error.message.startswith("interrupted: the run was ended after step 1")
    assert found.warnings == ("the 2 steps finished before the interruption are aligned",)
    assert found.series.loss_torch[0] == 0.5 and found.series.loss_torch[1] != found.series.loss_torch[1]
    assert found.case.name == "bert" and found.case.steps == 6


def test_a_divergence_before_the_interruption_is_told(tmp_path: Path) -> None:
    found = load_or_rebuild(run_folder(tmp_path, line(0), line(1, passed=False)))
    assert found.warnings == ("before the interruption the sides had diverged: step 1, parameter fc.bias: 2 of 3",)
    assert found.verdict.value == "failed"


def test_a_run_that_was_ended_before_its_first_step_is_reported(tmp_path: Path) -> None:
    found = load_or_rebuild(run_folder(tmp_path))
    assert found.steps_completed == 0 and found.error is not None
    assert "before its first step was finished" in found.error.message


def test_the_views_are_written_and_the_command_ends_as_an_interrupted_run(tmp_path: Path, capsys: Any) -> None:
    assert main(["report", str(run_folder(tmp_path, line(0)))]) == 130
    assert "interrupted: the run was ended after step 0" in capsys.readouterr().out
    assert (tmp_path / "report.html").is_file() and (tmp_path / "losses.md").is_file()
    assert not (tmp_path / "result.json").exists(), "the run itself did not come to a result"


def test_a_run_that_still_writes_is_not_called_interrupted(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, line(0))
    assert not is_running(folder)
    with open(folder / "steps.jsonl", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert is_running(folder)
        with pytest.raises(CaseError, match="the run is still going on, with 1 finished steps"):
            load_or_rebuild(folder)


@pytest.mark.parametrize(
    ("lines", "case", "message"),
    [
        ([], None, "interrupted before anything was recorded"),
        ([{"step": 0}], CASE, "not lines that stepalign wrote"),
        ([line(0)], {"folder": "/x", "case": {}}, "not a case that stepalign recorded"),
    ],
)
def test_too_little_or_damaged_is_named(tmp_path: Path, lines: Any, case: Any, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        load_or_rebuild(run_folder(tmp_path, *lines, case=case))
