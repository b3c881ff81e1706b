"""A small causal language model whose output projection is its embedding: the torch side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch_recipe import activation, attention, rounded, settings, training


class Net(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.o = o
        width = o.get("width", 16)
        self.embed = nn.Embedding(30, width)
        self.positions = nn.Parameter(torch.randn(9, width) * 0.1)
        self.norm1 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.fc = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        nn.init.normal_(self.embed.weight, std=0.3)
        if o.get("tie", "matmul") != "matmul":
            self.head = nn.Linear(width, 30, bias=False)
            if o["tie"] == "module":
                self.head.weight = self.embed.weight
            else:
                with torch.no_grad():
                    self.head.weight.copy_(self.embed.weight)

    def forward(self, ids):
        o = self.o
        x = self.embed(ids) + self.positions
        length = ids.shape[1]
        visible = torch.tril(torch.ones(length, length), o.get("causal_offset", 0)).bool()
        mask = torch.zeros(length, length, dtype=x.dtype).masked_fill(~visible, float("-inf"))
        h = self.norm1(x)
        heads = [f(h).unflatten(-1, (2, -1)).transpose(1, 2) for f in (self.query, self.key, self.value)]
        x = x + attention(o, *heads, mask if o.get("causal", True) else None).transpose(1, 2).flatten(2)
        x = self.norm2(x + activation(o, self.fc(x))) * o.get("logit_scale", 1.0)
        x = rounded(o, x)
        if o.get("tie", "matmul") != "matmul":
            return self.head(x)
        weight = self.embed.weight.detach() if o.get("detach", "none") == "output_embedding" else self.embed.weight
        return F.linear(x, weight)


def build(case):
    o = settings(case)
    model = Net(o)

    def loss(model, batch):
        labels = batch["labels"]
        logits = model(batch["ids"])
        if o.get("shift_again", False):
            logits, labels = logits[:, :-1], labels[:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    return training(o, model, loss)
