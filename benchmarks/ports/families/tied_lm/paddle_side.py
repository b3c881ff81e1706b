"""A small causal language model whose output projection is its embedding: the paddle side."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle_recipe import activation, attention, rounded, settings, training


class Net(nn.Layer):
    def __init__(self, o):
        super().__init__()
        self.o = o
        width = o.get("width", 16)
        self.embed = nn.Embedding(30, width)
        self.positions = self.create_parameter([9, width])
        self.norm1 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.fc = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        if o.get("tie", "matmul") == "copy":
            self.head = nn.Linear(width, 30, bias_attr=False)
            self.head.weight.set_value(self.embed.weight.t())

    def forward(self, ids):
        o = self.o
        x = self.embed(ids) + self.positions
        batch, length = ids.shape
        visible = paddle.tril(paddle.ones([length, length]), o.get("causal_offset", 0)).astype("bool")
        mask = paddle.zeros([length, length], dtype=x.dtype).masked_fill(~visible, float("-inf"))
        h = self.norm1(x)
        heads = [
            f(h).reshape([batch, length, 2, -1]).transpose([0, 2, 1, 3]) for f in (self.query, self.key, self.value)
        ]
        h = attention(o, *heads, mask if o.get("causal", True) else None)
        x = x + h.transpose([0, 2, 1, 3]).flatten(2)
        x = self.norm2(x + activation(o, self.fc(x))) * o.get("logit_scale", 1.0)
        x = rounded(o, x)
        if o.get("tie", "matmul") == "copy":
            return self.head(x)
        weight = self.embed.weight.detach() if o.get("detach", "none") == "output_embedding" else self.embed.weight
        return paddle.matmul(x, weight, transpose_y=True)


def build(case):
    o = settings(case)
    model = Net(o)

    def loss(model, batch):
        labels = batch["labels"]
        logits = model(batch["ids"])
        if o.get("shift_again", False):
            logits, labels = logits[:, :-1], labels[:, 1:]
        logits, labels = logits.flatten(0, 1), labels.flatten()
        if o.get("unlabelled", "left_out") == "built_in":
            return F.cross_entropy(logits, labels)
        labelled = (labels != -100).astype(logits.dtype)
        each = F.cross_entropy(logits, labels.clip(min=0), reduction="none").flatten()
        return (each * labelled).sum() / labelled.sum()

    return training(o, model, loss)
