"""A classifier on paddle.nn.TransformerEncoder: the paddle side."""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import nn
from paddle_recipe import settings, training


class Net(nn.Layer):
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
            normalize_before=o.get("norm_place", "post") == "pre",
        )
        self.tokens = nn.Embedding(40, width)
        self.positions = self.create_parameter([10, width])
        norm = nn.LayerNorm(width, epsilon=o.get("norm_eps", 1e-5)) if o.get("final_norm", False) else None
        self.encoder = nn.TransformerEncoder(layer, o.get("depth", 2), norm=norm)
        self.head = nn.Linear(width, 3)

    def forward(self, ids, mask):
        x = self.tokens(ids) + self.positions
        kept = {"kept": mask == 1, "inverted": mask == 0, "none": None}[self.o.get("mask", "kept")]
        return self.head(self.encoder(x, src_mask=None if kept is None else kept[:, None, None, :])[:, 0])


def build(case):
    o = settings(case)
    model = Net(o)

    def loss(model, batch):
        return F.cross_entropy(model(batch["ids"], batch["mask"]), batch["y"])

    return training(o, model, loss)
