"""A convolutional encoder with an average of its own weights, as momentum encoders and mean teachers have: the paddle side."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle_recipe import settings, training

STATISTICS = ("_mean", "_variance")


class Encoder(nn.Layer):
    def __init__(self, o):
        super().__init__()
        bias = None if o.get("conv_bias", False) else False
        self.conv1 = nn.Conv2D(3, 8, 3, padding=1, bias_attr=bias)
        self.bn1 = nn.BatchNorm2D(8)
        self.conv2 = nn.Conv2D(8, 12, 3, stride=2, padding=1, bias_attr=bias)
        self.bn2 = nn.BatchNorm2D(12)
        self.projection = nn.Linear(12, 8)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.projection(x.mean((2, 3)))


class Net(nn.Layer):
    """``target`` is the average's use: "train" and "eval" are its mode as a target; "none": it is kept for evaluation."""

    def __init__(self, o):
        super().__init__()
        self.o = o
        self.online = Encoder(o)
        self.average = Encoder(o)
        self.average.set_state_dict(self.online.state_dict())
        for parameter in self.average.parameters():
            parameter.stop_gradient = o.get("average_frozen", True) or parameter.stop_gradient
        self.predictor = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)
        self.calls = 0

    def train(self):
        super().train()
        if self.o.get("target", "train") != "train":
            self.average.eval()

    def target(self, view):
        if self.o.get("target_of", "average") == "average":
            return self.average(view)
        self.online.eval()
        output = self.online(view)
        self.online.train()
        return output

    def ramp(self):
        """Return the weight of the consistency: it grows over the first ``ramp`` steps."""
        weight = min(1.0, (self.calls + 1) / (self.o.get("ramp", 0) + 1))
        self.calls += self.o.get("ramp_step", 1)
        return weight

    @paddle.no_grad()
    def update_average(self):
        o, decay = self.o, self.o.get("decay", 0.99)
        for (name, ours), average in zip(self.online.named_parameters(), self.average.parameters()):
            statistic = name.endswith(STATISTICS)  # paddle lists running statistics among a layer's parameters
            if statistic and o.get("buffers", "own") == "copied":
                average.set_value(ours)
            elif not statistic or o.get("buffers", "own") == "averaged":
                average.set_value(decay * average + (1 - decay) * ours)


def after_each_step(optimizer, action):
    """Have ``optimizer.step()`` followed by ``action()``."""
    step = optimizer.step

    def step_and_act():
        step()
        action()

    optimizer.step = step_and_act


def build(case):
    o = settings(case)
    model = Net(o)

    def loss(model, batch):
        if o.get("average_when", "after") == "before" and model.training:
            model.update_average()
        features = model.online(batch["x"])
        value = F.cross_entropy(model.head(features), batch["y"])
        if o.get("target", "train") == "none":
            return value
        target = F.normalize(model.target(batch["view"]), axis=1)
        target = target.detach() if o.get("detach_target", True) else target
        consistency = (2 - 2 * (F.normalize(model.predictor(features), axis=1) * target).sum(1)).mean()
        return value + model.ramp() * consistency

    result = training(o, model, loss)
    if o.get("average_when", "after") == "after":
        after_each_step(result.optimizer, model.update_average)
    return result
