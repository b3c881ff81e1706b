"""Runs of which a side is no script on this machine are continued too: recorded ones, and scripts that own their loop."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from ..real_cases import PADDLE_SIDE, Ended, stepalign, write_case
from .test_resume import INTERRUPT, KEEP, NUMBERED, TOP, assert_same_run, edit, go_on, lines, resume, run, stop_at

INTERRUPTED_PADDLE = PADDLE_SIDE.replace(
    "def loss(model, batch):\n", f"{INTERRUPT}def loss(model, batch):\n    interrupt(batch)\n"
)
OWN_TORCH = f"""\
import torch
from torch import nn
from stepalign.workers import attach
{INTERRUPT}
client = attach()
model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
seen = 0
for batch in client.batches(model=model, optimizer=optimizer):
    seen += 1  # state of the script's own, which decides numbers
    interrupt(batch)
    loss = nn.functional.cross_entropy(model(batch["x"]), batch["y"]) * (1 + seen / 100)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    client.step(loss=loss)
"""
OWN_PADDLE = """\
import paddle
from paddle import nn
from stepalign.workers import attach

client = attach()
model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters(), weight_decay=0.01)
seen = 0
for batch in client.batches(model=model, optimizer=optimizer):
    seen += 1
    loss = nn.functional.cross_entropy(model(batch["x"]), batch["y"]) * (1 + seen / 100)
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
    client.step(loss=loss)
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A case with resync, and the recording of its torch side."""
    folder = tmp_path_factory.mktemp("recorded")
    case = write_case(
        folder / "case", f"{TOP}[compare]\nresync = 5\n{KEEP}", paddle=INTERRUPTED_PADDLE, data=NUMBERED
    )
    place = folder / "torch.zip"
    ended = stepalign("record", case, "--quiet", "--no-noise", "--out", place, cwd=folder)
    assert ended.code == 0, ended.stderr
    return case, place


def interrupted_against(case: Path, place: Path, out: Path) -> None:
    stop_at(case, 8, "coordinator", signal.SIGKILL, out)
    try:
        assert run(case, out, "--against", place).code == -signal.SIGKILL
    finally:
        go_on(case)


def test_a_run_against_a_recording_goes_on_from_its_checkpoint(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    case, place = recorded
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(case, whole, "--against", place).result["verdict"] == "aligned"
    interrupted_against(case, place, out)
    resumed = resume(case, out)  # the recording is the one that the folder names
    assert_same_run(resumed, out, whole)
    assert resumed.result["resumed"]["from_step"] > 0
    assert resumed.result["resumed"]["note"] == ""


def test_a_run_is_not_continued_against_another_recording(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    case, first = recorded
    place, out = shutil.copy(first, tmp_path / "torch.zip"), tmp_path / "out"
    interrupted_against(case, place, out)
    before = (out / "steps.jsonl").read_bytes()
    other = tmp_path / "other.zip"
    assert stepalign("record", case, "--quiet", "--no-batches", "--out", other, cwd=tmp_path).code == 0
    shutil.copy(other, place)
    refused = resume(case, out)
    assert refused.code == 2
    assert f"the recording {place} is another than it was" in refused.stderr
    elsewhere = resume(case, out, "--against", first)
    assert elsewhere.code == 2
    assert "the recording that stands for a side was" in elsewhere.stderr
    assert (out / "steps.jsonl").read_bytes() == before


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    folder = tmp_path / "scripts"
    folder.mkdir()
    for name, text in (("torch.py", OWN_TORCH), ("paddle.py", OWN_PADDLE), ("data.py", NUMBERED)):
        (folder / f"own_{name}").write_text(text)
    (folder / "align.toml").write_text(KEEP)
    return folder


def own(folder: Path, *arguments: object, out: Path | None = None) -> Ended:
    return stepalign("run", "--quiet", *arguments, cwd=folder, out=out)


def test_scripts_that_own_their_loop_begin_anew_say_so_and_end_as_a_whole_run(scripts: Path, tmp_path: Path) -> None:
    words = ["--torch", "own_torch.py", "--paddle", "own_paddle.py", "--data", "own_data.py", "--config", "align.toml"]
    words += ["--steps", "12"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    unstopped = own(scripts, *words, out=whole).result
    assert unstopped["verdict"] == "aligned" and not unstopped.get("warnings")
    (scripts / "stop").write_text(f"8 worker {int(signal.SIGKILL)}")
    assert own(scripts, *words, out=out).code == 3
    (scripts / "stop").unlink()
    assert 0 < len(lines(out)) < 12
    assert not (out / "checkpoints").exists()
    resumed = own(scripts, "--json", "--resume", out)  # the commands are in the folder
    assert_same_run(resumed, out, whole)
    assert resumed.result["resumed"]["from_step"] == 0
    reason = "the torch side is a command that owns its loop, and so its state"
    assert reason in resumed.result["resumed"]["note"]
    assert resumed.stderr.count(reason) == 1


def test_a_script_that_has_changed_since_is_named(scripts: Path, tmp_path: Path) -> None:
    words = ["--torch", "own_torch.py", "--paddle", "own_paddle.py", "--data", "own_data.py", "--steps", "12"]
    out = tmp_path / "out"
    (scripts / "stop").write_text(f"3 worker {int(signal.SIGKILL)}")
    assert own(scripts, *words, out=out).code == 3
    (scripts / "stop").unlink()
    edit(scripts / "own_torch.py", "lr=1e-2", "lr=2e-2")
    refused = own(scripts, "--json", "--resume", out)
    assert refused.code == 2
    assert "own_torch.py has changed" in refused.stderr
    assert json.loads((out / "result.json").read_text())["verdict"] == "failed"
