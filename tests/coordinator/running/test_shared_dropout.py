"""Dropout in training through the command line: with shared masks a correct port is aligned, with own masks it cannot
be.
"""

from __future__ import annotations

from pathlib import Path

from ..real_cases import Ended, run, write_case

TORCH_SIDE = """\
import torch
from torch import nn
from stepalign.workers import Training


class Net(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = p
        self.tokens = nn.Embedding(40, 16)
        self.drop = nn.Dropout(p)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=p, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, ids, mask):
        x = self.encoder(self.drop(self.tokens(ids)), src_key_padding_mask=~mask)
        return self.head(nn.functional.dropout(x[:, 0], self.p, self.training))


def build(case):
    model = Net(0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    return Training(model, lambda m, b: nn.functional.cross_entropy(m(b["ids"], b["mask"]), b["y"]), optimizer)
"""

PADDLE_SIDE = """\
import paddle
from paddle import nn
from paddle.nn.functional import cross_entropy, dropout
from stepalign.workers import Training


class Net(nn.Layer):
    def __init__(self, p):
        super().__init__()
        self.p = p
        self.tokens = nn.Embedding(40, 16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, dropout=p), 2)
        self.head = nn.Linear(16, 3)
        self.last = nn.Dropout(p)

    def forward(self, ids, mask):
        x = dropout(self.tokens(ids), self.p, training=self.training)
        return self.head(self.last(self.encoder(x, mask[:, None, None, :])[:, 0]))


def build(case):
    model = Net(0.1)
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters(), weight_decay=0.01)
    return Training(model, lambda m, b: cross_entropy(m(b["ids"], b["mask"]), b["y"]), optimizer)
"""

DATA = """\
import numpy as np


def batches(case):
    random = np.random.default_rng(5)
    for _ in range(case.steps):
        kept = np.arange(10)[None] < random.integers(4, 11, size=8)[:, None]
        yield {"ids": random.integers(1, 40, size=(8, 10)), "mask": kept, "y": random.integers(0, 3, 8)}
"""

SHARED = 'steps = 10\nmode = "train"\n[compare]\ndropout = "shared"\n'


def train(folder: Path, toml: str, paddle: str = PADDLE_SIDE) -> Ended:
    return run(write_case(folder, toml, TORCH_SIDE, paddle, DATA))


def test_a_transformer_with_dropout_in_attention_too_is_aligned_under_shared_masks(tmp_path: Path) -> None:
    ended = train(tmp_path / "shared", SHARED)
    assert ended.code == 0, ended.stdout
    losses = ended.result["series"]["loss"]
    assert max(abs(a - b) / abs(a) for a, b in zip(losses["torch"], losses["paddle"])) < 1e-6
    assert not any(finding["matters"] for finding in ended.result["findings"])


def test_masks_of_their_own_diverge_and_the_reason_is_given(tmp_path: Path) -> None:
    ended = train(tmp_path / "own", 'steps = 2\nmode = "train"\n')
    assert ended.code == 1 and ended.result["verdict"] == "diverged"
    cause = ended.result["causes"][0]
    assert (cause["category"], cause["code"]) == ("randomness", "dropout_masks")
    assert 'dropout = "shared"' in cause["fix"]


def test_a_dropout_that_the_port_forgot_is_found_under_shared_masks(tmp_path: Path) -> None:
    forgotten = PADDLE_SIDE.replace("dropout(self.tokens(ids), self.p, training=self.training)", "self.tokens(ids)")
    ended = train(tmp_path / "forgot", SHARED.replace("10", "2"), forgotten)
    assert ended.code == 1
    assert ended.result["first_divergence"]["torch_name"] == "encoder@input"
    cause = ended.result["causes"][0]
    assert (cause["category"], cause["code"]) == ("randomness", "dropout_calls")
    assert cause["evidence"].startswith("the code of the model itself drops 2 tensors in torch and 1 in paddle")
