"""A classifier on torch.nn.TransformerEncoder: the torch side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch_recipe import settings, training


class Net(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.o = o
        width = o.get("width", 16)
        layer = nn.TransformerEncoderLayer(
            width,
            o.get("heads", 2),
            o.get("feedforward", 32),
            dropout=0.0,
            activation=o.get("activation", "relu"),
            layer_norm_eps=o.get("norm_eps", 1e-5),
            batch_first=o.get("batch_first", True),
            norm_first=o.get("norm_place", "post") == "pre",
        )
        self.tokens = nn.Embedding(40, width)
        self.positions = nn.Parameter(torch.randn(10, width) * 0.1)
        norm = nn.LayerNorm(width, eps=o.get("norm_eps", 1e-5)) if o.get("final_norm", False) else None
        self.encoder = nn.TransformerEncoder(layer, o.get("depth", 2), norm=norm, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, ids, mask):
        x = self.tokens(ids) + self.positions
        blocked = {"kept": mask == 0, "inverted": mask == 1, "none": None}[self.o.get("mask", "kept")]
        return self.head(self.encoder(x, src_key_padding_mask=blocked)[:, 0])


def build(case):
    o = settings(case)
    model = Net(o)

    def loss(model, batch):
        return F.cross_entropy(model(batch["ids"], batch["mask"]), batch["y"])

    return training(o, model, loss)
