"""A small vision transformer with a fused qkv projection and layer scale: the paddle side."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle_recipe import activation, attention, rounded, settings, training


class Block(nn.Layer):
    def __init__(self, o, width):
        super().__init__()
        self.o, self.heads = o, 3
        eps = o.get("norm_eps", 1e-6)
        self.norm1 = nn.LayerNorm(width, epsilon=eps)
        self.qkv = nn.Linear(width, 3 * width, bias_attr=None if o.get("qkv_bias", True) else False)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, epsilon=eps)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)
        self.gamma = self.create_parameter([width], default_initializer=nn.initializer.Constant(0.5))

    def keep(self, x):
        rate = self.o.get("drop_path", 0.0)
        if not rate or not self.training:
            return x
        return x * (paddle.rand([x.shape[0], 1, 1], dtype=x.dtype) >= rate).astype(x.dtype) / (1 - rate)

    def forward(self, x):
        batch, length, width = x.shape
        fused = self.qkv(self.norm1(x))
        if self.o.get("fused_layout", "part_head") == "part_head":
            q, k, v = fused.reshape([batch, length, 3, self.heads, -1]).transpose([2, 0, 3, 1, 4])
        else:
            q, k, v = fused.reshape([batch, length, self.heads, 3, -1]).transpose([3, 0, 2, 1, 4])
        h = attention(self.o, q, k, v, None).transpose([0, 2, 1, 3]).reshape([batch, length, width])
        x = x + self.keep(self.proj(h) * (self.gamma if self.o.get("layer_scale", True) else 1.0))
        h = activation(self.o, self.fc1(self.norm2(x)))
        return x + self.keep(rounded(self.o, self.fc2(h)))


class Net(nn.Layer):
    def __init__(self, o):
        super().__init__()
        self.o = o
        width = 24
        self.patch = nn.Conv2D(3, width, 4, stride=4)
        self.cls = self.create_parameter([1, 1, width])
        self.pos = self.create_parameter([1, 17, width])
        self.blocks = nn.LayerList([Block(o, width) for _ in range(o.get("depth", 2))])
        self.norm = nn.LayerNorm(width, epsilon=o.get("norm_eps", 1e-6))
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        o = self.o
        x = self.patch(x).flatten(2).transpose([0, 2, 1])
        cls = self.cls.expand([x.shape[0], -1, -1])
        if o.get("add_positions", "with_cls") == "with_cls":
            x = paddle.concat([cls, x], 1) + self.pos
        else:
            x = paddle.concat([cls, x + self.pos[:, :-1]], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if o.get("pool", "cls") == "cls" else x.mean(1))


def build(case):
    o = settings(case)
    model = Net(o)

    def loss(model, batch):
        x = batch["x"]
        if o.get("channels", "rgb") == "bgr":
            x = x.flip(1)
        return F.cross_entropy(model(x), batch["y"], label_smoothing=o.get("label_smoothing", 0.0))

    return training(o, model, loss)
