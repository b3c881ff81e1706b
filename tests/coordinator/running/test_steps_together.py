"""Steps that are asked for several by one message, with both real frameworks: the same results, bit for bit, as one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.processes.switchboard import Switchboard
from stepalign.coordinator.running.run import run_case
from stepalign.coordinator.running.run_state import Watcher
from stepalign.coordinator.sessions import pace
from stepalign.protocol.messages import Batches, Message

from ..real_cases import PADDLE_SIDE, TORCH_SIDE, write_case

STEPS = 90
TOP = f"steps = {STEPS}\n"
PLAIN = f"{TOP}[collect]\nkinds = []\n"
BATCH = {"x": np.random.default_rng(0).standard_normal((8, 6)).astype("float32"), "y": np.arange(8) % 3}
ONE_BATCH = f'{PLAIN}[data]\nsource = "batch.npz"\n'
ITS_COPIES = """\
import numpy as np
from pathlib import Path


def batches(case):
    for _ in range(case.steps):
        yield dict(np.load(Path(__file__).with_name("batch.npz")))
"""
DROPOUT = tuple(
    source.replace("self.norm(self.fc1(x))", f"{functional}.dropout(self.norm(self.fc1(x)), 0.25, training=self.training)")
    for source, functional in ((TORCH_SIDE, "nn.functional"), (PADDLE_SIDE, "nn.functional"))
)
DIVERGING = PADDLE_SIDE.replace("weight_decay=0.01)", "weight_decay=0.02)")
assert DIVERGING != PADDLE_SIDE

CASES: dict[str, dict[str, str]] = {
    "rates and losses": {"toml": PLAIN},
    "one batch for all steps": {"toml": ONE_BATCH},
    "everything of a small model": {"toml": TOP},
    "shared dropout and resync": {
        "toml": f'{TOP}mode = "train"\n[compare]\nresync = 7\ndropout = "shared"\n[resume]\nevery_s = 0.001\n',
        "torch": DROPOUT[0],
        "paddle": DROPOUT[1],
    },
    "activations": {"toml": f'{PLAIN}activations = ["fc1"]\n'},
    "a port that diverges": {"toml": PLAIN, "paddle": DIVERGING},
}


IN_PLACE = tuple(
    source.replace('batch["y"]', "y").replace("batch):\n", f'batch):\n    y = batch.pop("y")\n    batch["x"].{change}\n')
    for source, change in ((TORCH_SIDE, "mul_(0.5)"), (PADDLE_SIDE, "scale_(0.5)"))
)


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Batches]]:
    """The messages that asked for several steps."""
    found: list[Batches] = []
    send = Switchboard.send

    def noting(self: Switchboard, role: str, message: Message) -> None:
        if isinstance(message, Batches):
            found.append(message)
        send(self, role, message)

    monkeypatch.setattr(Switchboard, "send", noting)
    yield found


def write(folder: Path, **parts: str) -> Path:
    """Write a case, with one batch in a file beside it."""
    case = write_case(folder, **parts)
    np.savez(case / "batch.npz", **BATCH)  # type: ignore[arg-type]
    return case


def outcome(case: Path, out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run a case; return its steps and its result without times and process numbers."""
    run_case(load_case(case), out, Watcher())
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    result = json.loads((out / "result.json").read_text())
    for line in steps:
        assert set(line.pop("seconds")) == {"torch", "paddle"}
    for side in result["sides"].values():
        side.pop("pid")
    assert [line["step"] for line in steps] == list(range(STEPS))
    return steps, result


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_steps_that_are_asked_for_one_by_one(
    name: str, tmp_path: Path, messages: list[Batches], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = write(tmp_path / "case", **CASES[name])
    together = outcome(case, tmp_path / "together")
    assert bool(messages) == (name != "activations")
    messages.clear()
    monkeypatch.setattr(pace, "MAX_TOGETHER", 1)
    one_by_one = outcome(case, tmp_path / "one-by-one")
    assert not messages
    assert together == one_by_one
    assert together[1]["verdict"] == ("diverged" if name == "a port that diverges" else "aligned")


def test_a_script_may_change_its_batch_although_the_next_step_has_the_same(tmp_path: Path, messages: list[Batches]) -> None:
    """Of a batch that is one object for all steps, tensors are made once and copied."""
    lines = []
    for name, parts in (("same", {"toml": ONE_BATCH}), ("copies", {"toml": PLAIN, "data": ITS_COPIES})):
        case = write(tmp_path / name, torch=IN_PLACE[0], paddle=IN_PLACE[1], **parts)
        steps, result = outcome(case, tmp_path / f"{name}-out")
        assert result["verdict"] == "aligned"
        lines.append(steps)
    assert lines[0] == lines[1]
    assert any(arrays is None for message in messages for arrays in message.arrays)
