"""An LSTM or GRU classifier: the torch side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch_recipe import settings, training


class Net(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.o = o
        width, both = o.get("width", 12), o.get("bidirectional", False)
        self.tokens = nn.Embedding(40, 10)
        cell = {"lstm": nn.LSTM, "gru": nn.GRU}[o.get("cell", "lstm")]
        self.rnn = cell(
            10, width, num_layers=o.get("layers", 1), bidirectional=both, batch_first=o.get("batch_first", True)
        )
        self.head = nn.Linear(width * (2 if both else 1), 3)

    def forward(self, ids):
        o = self.o
        states, last = self.rnn(self.tokens(ids))
        hidden = last[0] if o.get("cell", "lstm") == "lstm" else last
        if o.get("detach", "none") == "states":
            states = states.detach()
        kind = o.get("pool", "last")
        if kind == "last":
            return self.head(states[:, -1])
        if kind == "mean":
            return self.head(states.mean(1))
        return self.head(torch.cat([hidden[-2], hidden[-1]], 1) if o.get("bidirectional", False) else hidden[-1])


def build(case):
    o = settings(case)
    model = Net(o)

    def loss(model, batch):
        ids = batch["ids"].flip(1) if o.get("order", "given") == "reversed" else batch["ids"]
        return F.cross_entropy(model(ids), batch["y"], reduction=o.get("reduction", "mean"))

    return training(o, model, loss)
