"""A residual MLP with LayerNorm, for classification or regression: the torch side."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch_recipe import activation, rounded, settings, training


class Block(nn.Module):
    def __init__(self, o, width):
        super().__init__()
        self.o = o
        hidden = width * o.get("expansion", 2)
        self.norm = nn.LayerNorm(width, eps=o.get("norm_eps", 1e-5))
        self.fc1 = nn.Linear(width, hidden)
        self.drop = nn.Dropout(o.get("dropout", 0.0))
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        o = self.o
        post = o.get("norm_place", "pre") == "post"
        h = self.drop(activation(o, self.fc1(x if post else self.norm(x))))
        h = rounded(o, h)
        if o.get("functional_dropout", 0.0):
            h = F.dropout(h, o["functional_dropout"])
        h = self.fc2(h) * o.get("residual_scale", 1.0)
        base = {"input": x, "none": 0.0}[o.get("residual", "input")]
        return self.norm(base + h) if post else base + h


class Net(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.o = o
        width = o.get("width", 32)
        self.stem = nn.Linear(20, width)
        self.trunk = o.get("trunk", "layers")
        setattr(self, self.trunk, nn.ModuleList([Block(o, width) for _ in range(o.get("depth", 2))]))
        if o.get("final_norm", True):
            self.norm = nn.LayerNorm(width, eps=o.get("norm_eps", 1e-5))
        self.head = nn.Linear(width, 10, bias=o.get("head_bias", True))
        if o.get("aux", "none") != "none":
            self.aux = nn.Linear(width, 10)

    def forward(self, x, use_aux=None):
        o = self.o
        if o.get("input_noise", 0.0):
            x = x + o["input_noise"] * torch.randn_like(x)
        if o.get("standardize", "none") == "std":
            x = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)
        x = self.stem(x)
        for block in getattr(self, self.trunk):
            x = block(x)
            if o.get("detach", "none") == "blocks":
                x = x.detach()
        if o.get("final_norm", True):
            x = self.norm(x)
        logits = self.head(x * o.get("gain", 1.0))
        if o.get("aux", "none") == "odd_steps" and int(use_aux[0]):
            logits = logits + self.aux(x)
        return logits


def labels_of(o, batch):
    y = batch["y"]
    if o.get("label_order", "given") == "shuffled":
        y = y[torch.as_tensor(np.random.default_rng(3).permutation(len(y)))]
    return (y + o.get("label_shift", 0)) % 10


def build(case):
    o = settings(case)
    model = Net(o)

    def loss(model, batch):
        x = batch["x"]
        if o.get("input_norm", "none") == "max":
            x = x / x.abs().max()
        logits = model(x, batch["use_aux"])
        reduction, kind = o.get("reduction", "mean"), o.get("loss", "cross_entropy")
        if kind == "cross_entropy":
            value = F.cross_entropy(
                logits, labels_of(o, batch), reduction=reduction, label_smoothing=o.get("label_smoothing", 0.0)
            )
        elif kind == "mse":
            value = F.mse_loss(logits, batch["target"], reduction=reduction)
        elif kind == "smooth_l1":
            value = F.smooth_l1_loss(logits, batch["target"], beta=o.get("beta", 1.0), reduction=reduction)
        elif kind == "bce":
            value = F.binary_cross_entropy_with_logits(logits, (batch["target"] > 0).to(logits.dtype))
        elif kind == "distance":
            gap = (logits - batch["target"]) * (batch["target"] > 0).to(logits.dtype)
            value = torch.sqrt((gap**2).sum(1) + o.get("distance_eps", 0.0)).mean()
        elif kind == "hand_bce":
            p, t = torch.sigmoid(logits), (batch["target"] > 0).to(logits.dtype)
            floor = o.get("log_floor", 1e-7)
            value = -(t * torch.log(p + floor) + (1 - t) * torch.log(1 - p + floor)).mean()
        if o.get("penalty", 0.0):
            value = value + o["penalty"] * sum((p**2).sum() for p in model.parameters())
        return value * o.get("loss_scale", 1.0)

    return training(o, model, loss)
