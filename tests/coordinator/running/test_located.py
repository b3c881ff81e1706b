"""Where a divergence starts, with both real frameworks: parts of outputs, what else a module is given, gradients, own loops."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..real_cases import Ended, run, stepalign, write_case

TORCH = """\
import torch
from torch import nn
from stepalign.workers import Training


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.gain = nn.Linear(6, 6), 1.0

    def forward(self, x, hidden):
        return torch.tanh(self.lin(x)).masked_fill(hidden, 0.0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, 6)
        self.block = Block()
        self.heads = nn.ModuleList([nn.Linear(6, 2), nn.Linear(6, 2)])
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, y, hidden):
        h = self.block(x + self.embed(y), hidden)
        return self.heads[0](h), self.heads[1](h), self.scale.exp()


def loss(model, batch):
    a, b, scale = model(batch["x"], batch["y"], batch["x"] > 1.0)
    return (scale * a - b).pow(2).mean()


def build(case):
    model = Net()
    return Training(model=model, loss=loss, optimizer=torch.optim.Adam(model.parameters(), lr=1e-2))
"""

PADDLE = """\
import paddle
from paddle import nn
from stepalign.workers import Training

fault = ""


class Block(nn.Layer):
    def __init__(self):
        super().__init__()
        self.lin, self.gain = nn.Linear(6, 6), 1.5 if fault == "attribute" else 1.0

    def forward(self, x, kept):
        h = self.lin(x) * (1.5 if fault == "own code" else self.gain)
        return paddle.where(kept, paddle.tanh(h), paddle.zeros_like(h))


class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, 6)
        self.block = Block()
        self.heads = nn.LayerList([nn.Linear(6, 2), nn.Linear(6, 2)])
        self.scale = self.create_parameter([], default_initializer=nn.initializer.Constant(0.5))

    def forward(self, x, hidden, y):
        h = self.block(x + self.embed(y), kept=~hidden)
        return self.heads[0](h), self.heads[1](h), self.scale if fault == "scale" else self.scale.exp()


def loss(model, batch):
    y = batch["y"]
    a, b, scale = model(batch["x"], batch["x"] > 1.0, y=(y + 1) % 3 if fault == "labels" else y)
    return (scale * a - (b.detach() if fault == "cut" else b)).pow(2).mean()


def build(case):
    global fault
    fault = case.options["fault"]
    model = Net()
    return Training(model=model, loss=loss, optimizer=paddle.optimizer.Adam(1e-2, parameters=model.parameters()))
"""


def run_with(fault: str, folder: Path, activations: str = "") -> Ended:
    """Run the case with one fault in paddle's script."""
    return run(write_case(folder, f'steps = 2\n{activations}[options]\nfault = "{fault}"', TORCH, PADDLE))


def test_flags_that_the_port_turns_round_count_for_nothing_where_all_outputs_are_compared(tmp_path: Path) -> None:
    ended = run_with("", tmp_path / "case", '[collect]\nactivations = ["*"]\n')
    assert ended.code == 0, ended.stdout


@pytest.mark.parametrize(
    ("fault", "place", "code", "said"),
    [
        ("scale", "<model>:2", "activation_function", "torch's output is exp of the other side's"),
        ("labels", "<model>@input:y", "input_differs", "in the code of loss(model, batch)"),
        ("own code", "block", "forward_differs", "in its own code after block.lin, or in what else it is given"),
        ("attribute", "block", "module_attribute", "attribute gain is 1 in torch and 1.5 in paddle at block"),
        ("cut", None, "detached", "nothing flows back to the output <model>:1 on the paddle side; torch's gradient there"),
    ],
)
def test_the_place_of_a_fault_is_told(fault: str, place: str | None, code: str, said: str, tmp_path: Path) -> None:
    ended = run_with(fault, tmp_path / "case")
    first, causes = ended.result["first_divergence"], ended.result["causes"]
    assert first["kind"] == ("gradient" if place is None else "activation"), first
    assert place in (None, first["torch_name"])
    assert causes[0]["code"] == code and said in causes[0]["evidence"], causes


LOOP_TORCH = """\
import torch
from torch import nn
from stepalign.workers import attach

client = attach()
body, head = nn.Linear(6, 4), nn.Linear(4, 3)
updates = [torch.optim.SGD(part.parameters(), lr=1e-2, momentum=0.9) for part in (body, head)]
for batch in client.batches(model={"B": body, "H": head}, optimizer=updates):
    for update in updates:
        update.zero_grad()
    first = head(body(batch["x"])).pow(2).mean()
    first.backward()
    updates[1].step()
    updates[0].zero_grad()
    second = head(body(batch["x"])).mean()
    second.backward()
    updates[0].step()
    client.step(loss=first.detach() + second.detach())
"""

LOOP_PADDLE = """\
import sys
import paddle
from paddle import nn
from stepalign.workers import attach

client, fault = attach(), sys.argv[1]
body, head = nn.Linear(6, 4), nn.Linear(4, 3)
updates = [paddle.optimizer.Momentum(1e-2, 0.9, parameters=part.parameters()) for part in (body, head)]
for batch in client.batches(model={"B": body, "H": head}, optimizer=updates):
    for update in updates:
        update.clear_grad()
    x = nn.functional.dropout(batch["x"], 0.4) if fault == "noise" else batch["x"]
    first = head(body(x)).pow(2).mean()
    extra = head.weight.pow(2).sum()
    (first + extra if fault == "term" else first).backward()
    updates[1].step()
    updates[0].clear_grad()
    second = head(body(batch["x"])).mean()
    second.backward()
    updates[0].step()
    client.step(loss=first.detach() + second.detach())
"""

LOOP_DATA = """\
import numpy as np


def batches(case):
    random = np.random.default_rng(1)
    for _ in range(case.steps):
        yield {"x": random.standard_normal((8, 6)).astype("float32")}
"""


def run_loops(fault: str, folder: Path, *options: str) -> Ended:
    """Run two scripts that own their loop and update twice in a step, one fault in paddle's."""
    for name, text in {"a.py": LOOP_TORCH, "b.py": LOOP_PADDLE, "data.py": LOOP_DATA}.items():
        (folder / name).write_text(text, encoding="utf-8")
    sides = ("--torch", "a.py", "--paddle", f"b.py {fault}", "--data", "data.py", "--steps", 2, "--mode", "train")
    return stepalign("run", *sides, *options, cwd=folder, out=folder / "out")


def test_random_numbers_in_a_loop_of_its_own_are_found(tmp_path: Path) -> None:
    ended = run_loops("noise", tmp_path)
    cause = ended.result["causes"][0]
    assert cause["code"] == "changes_when_repeated" and "on the paddle side" in cause["evidence"], ended.result["causes"]


def test_what_differs_after_an_update_in_the_same_step_is_not_blamed_on_the_module_nor_on_chance(tmp_path: Path) -> None:
    ended = run_loops("term", tmp_path)
    first, causes = ended.result["first_divergence"], ended.result["causes"]
    assert (first["kind"], first["torch_name"]) == ("gradient", "H.weight"), first
    assert "changes_when_repeated" not in {cause["code"] for cause in causes}
    assert not any("inside it" in cause["evidence"] for cause in causes), causes


def test_marks_of_updates_are_not_compared_where_all_outputs_are(tmp_path: Path) -> None:
    ended = run_loops("none", tmp_path, "--set", 'collect.activations=["*"]')
    assert ended.code == 0, ended.stdout
    compared = (ended.folder / "details.json").read_text(encoding="utf-8")
    assert '"H#1"' in compared and "@update" not in compared and "@input" not in compared
