"""A two-level U-Net with group norm: the paddle side."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle_recipe import activation, settings, training


class Stage(nn.Layer):
    def __init__(self, o, source, target):
        super().__init__()
        self.o = o
        self.conv = nn.Conv2D(source, target, 3, padding=1)
        self.norm = nn.GroupNorm(o.get("norm_groups", 2), target, epsilon=o.get("norm_eps", 1e-5))

    def forward(self, x):
        return activation(self.o, self.norm(self.conv(x)))


class Net(nn.Layer):
    def __init__(self, o):
        super().__init__()
        self.o = o
        self.down = Stage(o, 1, 8)
        self.middle = Stage(o, 8, 8)
        if o.get("upsampling", "transposed") == "transposed":
            self.up = nn.Conv2DTranspose(8, 8, 2, stride=2)
        self.merge = Stage(o, 16, 8)
        self.output = nn.Conv2D(8, 3, 1)

    def forward(self, x):
        o = self.o
        skip = self.down(x)
        h = self.middle(F.max_pool2d(skip, 2))
        kind = o.get("upsampling", "transposed")
        if kind == "transposed":
            h = self.up(h)
        elif kind == "nearest":
            h = F.interpolate(h, scale_factor=2, mode="nearest")
        else:
            h = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=o.get("align_corners", False))
        pair = [skip, h] if o.get("concat", "skip_first") == "skip_first" else [h, skip]
        return self.output(self.merge(paddle.concat(pair, 1)))


def build(case):
    o = {"activation": "silu", **settings(case)}
    model = Net(o)

    def loss(model, batch):
        logits = model(batch["x"])
        value = F.cross_entropy(logits, batch["y"], axis=1)
        if o.get("dice", False):
            p = F.softmax(logits, o.get("dice_axis", 1))
            t = F.one_hot(batch["y"], 3).transpose([0, 3, 1, 2]).astype(p.dtype)
            smooth = o.get("dice_smooth", 1.0)
            overlap = (2 * (p * t).sum((0, 2, 3)) + smooth) / (p.sum((0, 2, 3)) + t.sum((0, 2, 3)) + smooth)
            value = value + 1 - overlap.mean()
        return value

    return training(o, model, loss)
