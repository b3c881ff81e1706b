"""A convolution and batch-norm classifier: the paddle side."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle_recipe import activation, rounded, settings, training


class FlipGradient(paddle.autograd.PyLayer):
    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.strength * gradient


class Net(nn.Layer):
    def __init__(self, o):
        super().__init__()
        self.o = o
        width, momentum, eps = o.get("width", 8), 1 - o.get("bn_momentum", 0.1), o.get("bn_eps", 1e-5)
        bias = None if o.get("conv_bias", False) else False
        self.conv1 = nn.Conv2D(3, width, 3, padding=1, bias_attr=bias)
        self.bn1 = nn.BatchNorm2D(width, epsilon=eps, momentum=momentum)
        self.group_norm = nn.Identity()
        if o.get("group_norm", False):
            self.group_norm = nn.GroupNorm(2, width, weight_attr=False, bias_attr=False)
        self.conv2 = nn.Conv2D(width, 2 * width, 3, stride=o.get("stride", 2), padding=1, bias_attr=bias)
        self.bn2 = nn.BatchNorm2D(2 * width, epsilon=eps, momentum=momentum)
        side = {"mean": 1, "flatten": 3}[o.get("neck", "mean")]
        self.fc = nn.Linear(2 * width * side * side, 5)
        if o.get("domain_head", False):
            self.domain = nn.Linear(2 * width, 2)
        if o.get("center", False):
            self.register_buffer("center", paddle.zeros([2 * width]))
        self.settle()

    def settle(self):
        if self.o.get("bn_frozen", False):
            self.bn1.eval()
            self.bn2.eval()

    def train(self):
        super().train()
        self.settle()

    def pool(self, x):
        kind = self.o.get("pool", "max")
        if kind == "max":
            return F.max_pool2d(x, 2)
        return F.avg_pool2d(x, 3, stride=2, padding=1, exclusive=kind != "avg_with_padding")

    def features(self, x):
        o = self.o
        if o.get("warp", False):
            theta = paddle.to_tensor([[0.9, 0.1, 0.05], [-0.1, 0.8, 0.0]], dtype=x.dtype).expand([x.shape[0], 2, 3])
            corners = o.get("align_corners", False)
            x = F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=corners), align_corners=corners)
        x = self.pool(activation({"activation": "relu", **o}, self.group_norm(self.bn1(self.conv1(x)))))
        x = rounded(o, x)
        x = activation({"activation": "relu", **o}, self.bn2(self.conv2(x)))
        if o.get("neck", "mean") == "flatten":
            order = (0, 2, 3, 1) if o.get("flatten", "channels_first") == "channels_last" else (0, 1, 2, 3)
            return x.transpose(order).flatten(1)
        x = x.mean((2, 3))
        if o.get("center", False):
            mean = x.detach().mean(0)
            x = x - self.center.clone()
            if self.training:
                rate = o.get("center_rate", 0.1)
                self.center.set_value((1 - rate) * self.center + rate * mean)
        return x

    def forward(self, x):
        return self.fc(self.features(x))


def build(case):
    o = settings(case)
    model = Net({"activation": "relu", **o})

    def loss(model, batch):
        if not o.get("domain_head", False):
            return F.cross_entropy(model(batch["x"]), batch["y"], reduction=o.get("reduction", "mean"))
        features = model.features(batch["x"])
        turned = FlipGradient.apply(features, o.get("flip_strength", 1.0)) if o.get("flip", True) else features
        domain = F.cross_entropy(model.domain(turned), batch["y"] % 2)
        return F.cross_entropy(model.fc(features), batch["y"]) + domain

    return training(o, model, loss)
