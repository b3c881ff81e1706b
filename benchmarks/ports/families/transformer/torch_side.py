"""A transformer classifier with attention written by hand: the torch side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch_recipe import activation, attention, rounded, settings, training


class Attention(nn.Module):
    def __init__(self, o, width):
        super().__init__()
        self.o, self.heads = o, o.get("heads", 4)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        if o.get("mix", "none") != "none":
            self.mix = nn.Parameter(torch.randn(width, width) * width**-0.5)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x, mask):
        if self.o.get("swap_key_value", False):
            q, k, v = self.query(x), self.value(x), self.key(x)
        else:
            q, k, v = self.query(x), self.key(x), self.value(x)
        h = attention(self.o, self.split(q), self.split(k), self.split(v), mask)
        h = h.transpose(1, 2).flatten(2)
        if self.o.get("mix", "none") != "none":
            h = h @ (self.mix if self.o["mix"] == "in_out" else self.mix.T)
        return self.output(h)


class Block(nn.Module):
    def __init__(self, o, width):
        super().__init__()
        self.o = o
        eps = o.get("norm_eps", 1e-12)
        self.attention = Attention(o, width)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.drop = nn.Dropout(o.get("dropout", 0.0))

    def forward(self, x, mask):
        if self.o.get("norm_place", "post") == "pre":
            x = x + self.drop(self.attention(self.norm1(x), mask))
            return x + self.drop(self.fc2(activation(self.o, self.fc1(self.norm2(x)))))
        x = self.norm1(x + self.drop(self.attention(x, mask)))
        h = self.drop(self.fc2(activation(self.o, self.fc1(x))))
        if self.o.get("second_residual", True):
            h = h + x
        return rounded(self.o, self.norm2(h))


class Net(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.o = o
        width = o.get("width", 24)
        self.tokens = nn.Embedding(40, width, padding_idx=o.get("padding_idx"))
        self.positions = nn.Embedding(10, width)
        self.norm = nn.LayerNorm(width, eps=o.get("norm_eps", 1e-12))
        self.blocks = nn.ModuleList([Block(o, width) for _ in range(o.get("depth", 2))])
        self.head = nn.Linear(width, 3)
        if o.get("padding_row", "zero") == "trained":
            nn.init.normal_(self.tokens.weight)

    def forward(self, ids, mask):
        o = self.o
        x = self.tokens(ids)
        if o.get("embedding_scale", False):
            x = x * x.shape[-1] ** 0.5
        x = self.norm(x + self.positions((torch.arange(ids.shape[1]) + o.get("first_position", 0)) % 10))
        keep = {"kept": mask, "inverted": 1 - mask, "none": torch.ones_like(mask)}[o.get("mask", "kept")]
        additive = (1.0 - keep[:, None, None, :].to(x.dtype)) * o.get("mask_fill", -1e4)
        for block in self.blocks:
            x = block(x, additive)
        kind = o.get("pool", "first")
        if kind == "first":
            x = x[:, 0]
        elif kind == "mean":
            x = x.mean(1)
        else:
            weights = mask[:, :, None].to(x.dtype)
            x = (x * weights).sum(1) / weights.sum(1)
        return self.head(x)


def build(case):
    o = settings(case)
    model = Net(o)

    def loss(model, batch):
        return F.cross_entropy(
            model(batch["ids"], batch["mask"]), batch["y"], label_smoothing=o.get("label_smoothing", 0.0)
        )

    return training(o, model, loss)
