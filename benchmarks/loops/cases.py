"""Writes the cases that are timed: a BERT-style classifier of any size (the demo's scripts), and a tiny MLP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import stepalign.coordinator

HERE = Path(__file__).parent
BERT_SCRIPTS = Path(stepalign.coordinator.__path__[0]) / "cases" / "demo_case"


@dataclass(frozen=True)
class Model:
    """A model to train: which scripts, its sizes, and the shape of its batch."""

    name: str
    scripts: Path
    options: Mapping[str, object]
    batch_size: int
    length: int


def bert(name: str, hidden: int, layers: int, batch_size: int = 4, length: int = 64) -> Model:
    """Return a BERT of the usual proportions: heads of 64, four times as wide inside, 30,522 words."""
    options = {
        "vocabulary": 30522, "positions": 512, "token_types": 2, "hidden": hidden, "layers": layers,
        "heads": hidden // 64, "intermediate": 4 * hidden, "labels": 2, "dropout": 0.1, "layer_norm_eps": 1e-12,
        "lr": 3e-5, "weight_decay": 0.01, "warmup_steps": 500, "total_steps": 5000, "schedule_in_training": False,
    }  # fmt: skip
    return Model(name, BERT_SCRIPTS, options, batch_size, length)


SMALL_BERT = bert("small_bert", hidden=256, layers=4)
BERT_BASE = bert("bert_base", hidden=768, layers=12)
TINY_MLP = Model("tiny_mlp", HERE / "mlp", {"width": 64, "depth": 4, "inputs": 32, "lr": 1e-3}, 32, 32)


NEVER_FAILS = "[tolerance]\nloss = { rtol = 1.0, atol = 1e9 }\n"
"""On one batch for ever, rounding fails the loss after some hundred steps and Adam jumps on one side now and then; the
control that weighs such failures would run all steps once more."""


def write_case(
    model: Model, folder: Path, steps: int, kinds: tuple[str, ...] | None, pythons: Mapping[str, Path]
) -> Path:
    """Write the case into a new ``folder`` and return it. ``kinds`` None: stepalign's own default collection."""
    folder.mkdir(parents=True)
    for side in ("torch", "paddle"):
        shutil.copyfile(model.scripts / f"{side}_side.py", folder / f"{side}_side.py")
    random = np.random.default_rng(0)
    if model is TINY_MLP:
        x = random.standard_normal((model.batch_size, model.length)).astype(np.float32)
        np.savez(folder / "data.npz", x=x, y=random.integers(0, 10, model.batch_size))
    else:
        ids = random.integers(1, 30522, (model.batch_size, model.length))
        np.savez(folder / "data.npz", input_ids=ids, labels=random.integers(0, 2, model.batch_size))
    lines = [f'name = "{model.name}"', f"steps = {steps}", "[options]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in model.options.items()]
    for side in ("torch", "paddle"):
        lines += [f"[{side}]", f'script = "{side}_side.py"', f"python = {json.dumps(str(pythons[side]))}", 'device = "cpu"']
    lines += ["[data]", 'source = "data.npz"', "[weights]", 'source = "torch"']
    if kinds is not None:
        lines += ["[collect]", f"kinds = {json.dumps(list(kinds))}"]
    (folder / "case.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
