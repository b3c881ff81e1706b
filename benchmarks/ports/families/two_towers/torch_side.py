"""An image and a text encoder trained against each other with a learnt temperature, as CLIP is: the torch side."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch_recipe import activation, settings, training


class ImageTower(nn.Module):
    def __init__(self, o, width, size):
        super().__init__()
        self.o = o
        self.patch = nn.Conv2d(3, width, 4, stride=4, bias=False)
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, width)
        self.projection = nn.Linear(width, size, bias=False)

    def forward(self, image):
        x = self.norm(self.patch(image).flatten(2).transpose(1, 2))
        x = x + activation(self.o, self.fc(x))
        return self.projection(x.mean(1))


class TextTower(nn.Module):
    def __init__(self, o, width, size):
        super().__init__()
        self.o = o
        self.embed = nn.Embedding(41, width)
        self.positions = nn.Parameter(torch.randn(7, width) * 0.1)
        self.mix = nn.Linear(7, 7)
        self.fc = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, size, bias=False)

    def forward(self, ids):
        x = self.embed(ids) + self.positions
        x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)
        x = self.norm(x + activation(self.o, self.fc(x)))
        last = ids.argmax(-1) if self.o.get("pooled", "end") == "end" else torch.full_like(ids[:, 0], -1)
        return self.projection(x[torch.arange(x.shape[0]), last])


class Net(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.o = o
        self.image = ImageTower(o, 16, 8)
        self.text = TextTower(o, 16, 8)
        start = 1 / o.get("temperature", 0.07)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(start) if o.get("scale", "exp") == "exp" else start))

    def normalised(self, name, x):
        if name not in self.o.get("normalised", ["image", "text"]):
            return x
        if self.o.get("normalise", "function") == "function":
            return F.normalize(x, dim=self.o.get("normalise_axis", 1))
        return x / x.norm(dim=self.o.get("normalise_axis", 1), keepdim=True)

    def forward(self, image, ids):
        scale = self.logit_scale.exp() if self.o.get("scale", "exp") == "exp" else self.logit_scale
        return self.normalised("image", self.image(image)), self.normalised("text", self.text(ids)), scale


def build(case):
    o = settings(case)
    model = Net(o)

    def loss(model, batch):
        image, text, scale = model(batch["image"], batch["ids"])
        logits = scale * image @ text.t()
        y = torch.arange(logits.shape[0])
        losses = {"image": F.cross_entropy(logits, y), "text": F.cross_entropy(logits.t(), y)}
        chosen = o.get("directions", ["image", "text"])
        return sum(losses[name] for name in chosen) / len(chosen)

    return training(o, model, loss)
