"""A convolutional encoder with an average of its own weights, as momentum encoders and mean teachers have: the torch side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch_recipe import settings, training


class Encoder(nn.Module):
    def __init__(self, o):
        super().__init__()
        bias = o.get("conv_bias", False)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(12)
        self.projection = nn.Linear(12, 8)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.projection(x.mean((2, 3)))


class Net(nn.Module):
    """``target`` is the average's use: "train" and "eval" are its mode as a target; "none": it is kept for evaluation."""

    def __init__(self, o):
        super().__init__()
        self.o = o
        self.online = Encoder(o)
        self.average = Encoder(o)
        self.average.load_state_dict(self.online.state_dict())
        self.average.requires_grad_(not o.get("average_frozen", True))
        self.predictor = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)
        self.calls = 0

    def train(self, mode=True):
        super().train(mode)
        if self.o.get("target", "train") != "train":
            self.average.eval()
        return self

    def ramp(self):
        """Return the weight of the consistency: it grows over the first ``ramp`` steps."""
        weight = min(1.0, (self.calls + 1) / (self.o.get("ramp", 0) + 1))
        self.calls += self.o.get("ramp_step", 1)
        return weight

    @torch.no_grad()
    def update_average(self):
        o, decay = self.o, self.o.get("decay", 0.99)
        for ours, average in zip(self.online.parameters(), self.average.parameters()):
            average.mul_(decay).add_((1 - decay) * ours)
        for ours, average in zip(self.online.buffers(), self.average.buffers()):
            if o.get("buffers", "own") == "copied":
                average.copy_(ours)


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
        target = F.normalize(model.average(batch["view"]), dim=1).detach()
        consistency = (2 - 2 * (F.normalize(model.predictor(features), dim=1) * target).sum(1)).mean()
        return value + model.ramp() * consistency

    result = training(o, model, loss)
    if o.get("average_when", "after") == "after":
        result.optimizer.register_step_post_hook(lambda *_: model.update_average())
    return result
