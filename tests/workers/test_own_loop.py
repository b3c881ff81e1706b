"""Scripts that own their loop, without a framework: what the client gives, and how a script may end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stepalign
from stepalign.coordinator.cases.batches import BatchSource
from stepalign.coordinator.cases.choice import choose_case
from stepalign.protocol.tensors import digest

SCRIPT = Path(__file__).parents[1] / "doubles" / "numpy_script.py"
STEPS = 3


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Return a function that runs the script on both sides, torch's with a fault, for three steps."""
    python = tmp_path / "double"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    random = np.random.default_rng(7)
    np.savez(tmp_path / "data.npz", x=random.normal(size=(4, 2)), y=random.normal(size=(4, 3)))
    monkeypatch.chdir(tmp_path)

    def call(torch: str = "", paddle: str = "") -> stepalign.Result:
        command = f"{python} {SCRIPT}"
        return stepalign.run(
            torch=f"{command} {torch}",
            paddle=f"{command} {paddle}",
            data="data.npz",
            steps=STEPS,
            dtype="float64",
            out=tmp_path / "out",
        )

    return call


def output(result: stepalign.Result, side: str = "torch") -> str:
    return (result.folder / f"{side}.log").read_text(encoding="utf-8")


def test_every_step_is_collected_although_the_script_zeroes_gradients_and_lowers_the_rate_before_it_reports(run) -> None:  # type: ignore[no-untyped-def]
    result = run("", "spawn")
    assert result.verdict == "aligned", result.text
    assert "child says False" in output(result, "paddle")  # what a script starts is not taken for the script
    assert result.series.lr_torch == ((0.125,), (0.0625,), (0.03125,))
    steps = [json.loads(line) for line in (result.folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(steps) == STEPS and {"lr", "loss", "gradient", "parameter"} <= set(steps[0]["worst"])
    assert result.result.torch.pid != result.result.paddle.pid
    assert len(result.result.torch.batch_digests) == STEPS
    assert "pass 0 ended\npass 1 ended" in output(result)


@pytest.mark.parametrize("ways", [("names", "more"), ("passes", "break")])
def test_a_script_may_name_its_arrays_part_its_passes_and_go_on_after_the_last_step(run, ways: tuple[str, str]) -> None:  # type: ignore[no-untyped-def]
    result = run(*ways)
    assert result.verdict == "aligned", result.text
    if "more" in ways:
        assert output(result, "paddle").count("more") == 3


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("exit", 2, "the torch script ended after 2 of 3 steps: let it take batches as long as client.batches() gives"),
        ("never", 3, "the torch command ended before it called attach(): exit code 0; its script needs"),
        ("other_framework", 3, "the torch side must not import paddle"),
        ("raise_before", 2, "the script raised OSError: no such dataset"),
        ("no_model", 2, "client.batches() needs the model and the optimizer"),
        ("wrong_names", 2, "names: the data has no 'z'; it has x, y"),
        ("raise", 3, "the script raised ValueError: this script was asked to raise"),
        ("no_update", 2, "client.step() was called before any optimizer had updated"),
        ("update_twice", 2, "an optimizer updated twice within one step"),
        ("no_report", 2, "client.step() was not called for step 0"),
        ("report_twice", 2, "client.step() was called without a batch of its own"),
        ("unreduced", 2, "takes one floating-point number; came float64 of shape [4, 3]"),
        ("other_optimizer", 2, "a Optimizer came that is none of those that client.batches() was given first"),
    ],
)
def test_whatever_a_script_does_wrong_is_told(run, fault: str, code: int, message: str) -> None:  # type: ignore[no-untyped-def]
    result = run(fault)
    assert result.verdict == "failed"
    assert message in result.error.message, result.error.message
    assert result.exit_code == code
    if fault == "raise":
        assert "numpy_script.py" in result.error.message and result.error.step == 1


def test_a_script_runs_alone_where_there_is_no_coordinator(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "more"], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["pass 0 ended", "pass 1 ended"] and done.stdout.count("more") == 3


def test_a_script_that_runs_alone_imports_nothing_but_the_standard_library() -> None:
    code = "import sys; from stepalign.workers import attach; attach(); print({'numpy', 'zmq', 'msgpack'} & {*sys.modules})"
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert done.stdout.strip() == "set()"


def test_one_batch_that_is_used_again_for_each_part_of_an_update_has_the_digest_of_the_whole(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.arange(4.0))
    commands = {"torch": "a.py", "paddle": "b.py"}
    batches = BatchSource(choose_case(None, commands, str(tmp_path / "data.npz"), accumulate=2))
    assert set(batches[0]) == {"0/x", "1/x"}
    assert batches.digest(0) == digest(batches[0])
