"""Small cases for both real frameworks, written into a folder; a test changes what it is about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict

TORCH_SIDE = """\
import torch
from torch import nn
from stepalign.workers import Training


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.fc2 = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc2(torch.relu(self.norm(self.fc1(x))))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def make_optimizer(parameters, case):
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.01)


def make_scheduler(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)


def build(case):
    model = Net()
    optimizer = make_optimizer(model.parameters(), case)
    return Training(model=model, loss=loss, optimizer=optimizer, scheduler=make_scheduler(optimizer))
"""

PADDLE_SIDE = """\
import paddle
from paddle import nn
from stepalign.workers import Training


class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.fc2 = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc2(nn.functional.relu(self.norm(self.fc1(x))))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def make_optimizer(parameters, case, rate):
    return paddle.optimizer.AdamW(rate, parameters=parameters, weight_decay=0.01)


def make_scheduler():
    return paddle.optimizer.lr.StepDecay(1e-2, 3, 0.5)


def build(case):
    model = Net()
    scheduler = make_scheduler()
    optimizer = make_optimizer(model.parameters(), case, scheduler)
    return Training(model=model, loss=loss, optimizer=optimizer, scheduler=scheduler)
"""

DATA = """\
import numpy as np


def batches(case):
    random = np.random.default_rng(case.seed)
    for _ in range(case.steps):
        yield {"x": random.standard_normal((8, 6)).astype("float32"), "y": random.integers(0, 3, 8)}
"""


@dataclass(frozen=True)
class Ended:
    """A finished command: its exit code, result.json (if it printed one), output and run folder."""

    code: int
    result: Dict[str, Any]
    stdout: str
    stderr: str
    folder: Path


def write_case(
    folder: Path,
    toml: str = "steps = 3",
    torch: str = TORCH_SIDE,
    paddle: str = PADDLE_SIDE,
    data: str = DATA,
    torch_python: str = "torch",
    paddle_python: str = "paddle",
) -> Path:
    """Write a case; ``toml`` is put before the sections that name scripts and data."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = (
        f'\n[torch]\nscript = "torch_side.py"\npython = "{torch_python}"\n'
        f'[paddle]\nscript = "paddle_side.py"\npython = "{paddle_python}"\n'
    )
    if "[data]" not in toml:
        sections += '[data]\nsource = "data.py"\n'
    top, bracket, tables = toml.partition("[")
    (folder / "case.toml").write_text(top + sections + bracket + tables, encoding="utf-8")
    (folder / "torch_side.py").write_text(torch, encoding="utf-8")
    (folder / "paddle_side.py").write_text(paddle, encoding="utf-8")
    (folder / "data.py").write_text(data, encoding="utf-8")
    return folder


def stepalign(*arguments: object, cwd: Path, out: Path | None = None, timeout_s: float = 240.0) -> Ended:
    """Run the command line in a process of its own and return how it ended. With ``out``, ``--json`` and ``--out`` are
    added.
    """
    command = [sys.executable, "-m", "stepalign.coordinator.cli", *map(str, arguments)]
    if out is not None:
        command += ["--json", "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    try:
        result = json.loads(done.stdout)
    except json.JSONDecodeError:
        result = {}
    return Ended(done.returncode, result, done.stdout, done.stderr, out or cwd)


def run(case: Path, *arguments: object) -> Ended:
    """Run a case into ``<case>/../out`` and return how it ended."""
    return stepalign("run", case, *arguments, cwd=case.parent, out=case.parent / f"{case.name}-out")
