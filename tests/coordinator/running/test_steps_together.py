"""Steps that are asked for several by one message, with both real frameworks: the same results, bit for bit, as one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
SAME = """\
import numpy as np

BATCH = {"x": np.random.default_rng(0).standard_normal((8, 6)).astype("float32"), "y": np.arange(8) % 3}


def batches(case):
    for _ in range(case.steps):
        yield BATCH
"""
DROPOUT = tuple(
    source.replace("self.norm(self.fc1(x))", f"{functional}.dropout(self.norm(self.fc1(x)), 0.25, training=self.training)")
    for source, functional in ((TORCH_SIDE, "nn.functional"), (PADDLE_SIDE, "nn.functional"))
)
DIVERGING = PADDLE_SIDE.replace("weight_decay=0.01)", "weight_decay=0.02)")
assert DIVERGING != PADDLE_SIDE

CASES: dict[str, dict[str, str]] = {
    "rates and losses": {"toml": PLAIN},
    "one batch for all steps": {"toml": PLAIN, "data": SAME},
    "everything of a small model": {"toml": TOP},
    "shared dropout and resync": {
        "toml": f'{TOP}mode = "train"\n[compare]\nresync = 7\ndropout = "shared"\n[resume]\nevery_s = 0.001\n',
        "torch": DROPOUT[0],
        "paddle": DROPOUT[1],
    },
    "activations": {"toml": f'{PLAIN}activations = ["fc1"]\n'},
    "a port that diverges": {"toml": PLAIN, "paddle": DIVERGING},
}


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
    case = write_case(tmp_path / "case", **CASES[name])
    together = outcome(case, tmp_path / "together")
    assert bool(messages) == (name != "activations")
    messages.clear()
    monkeypatch.setattr(pace, "MAX_TOGETHER", 1)
    one_by_one = outcome(case, tmp_path / "one-by-one")
    assert not messages
    assert together == one_by_one
    assert together[1]["verdict"] == ("diverged" if name == "a port that diverges" else "aligned")
