"""An image and a text encoder trained against each other with a learnt temperature, as CLIP is: the paddle side."""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle_recipe import activation, settings, training


class ImageTower(nn.Layer):
    def __init__(self, o, width, size):
        super().__init__()
        self.o = o
        self.patch = nn.Conv2D(3, width, 4, stride=4, bias_attr=False)
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, width)
        self.projection = nn.Linear(width, size, bias_attr=False)

    def forward(self, image):
        x = self.norm(self.patch(image).flatten(2).transpose([0, 2, 1]))
        x = x + activation(self.o, self.fc(x))
        return self.projection(x.mean(1))


class TextTower(nn.Layer):
    def __init__(self, o, width, size):
        super().__init__()
        self.o = o
        self.embed = nn.Embedding(41, width)
        self.positions = self.create_parameter([7, width])
        self.mix = nn.Linear(7, 7)
        self.fc = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, size, bias_attr=False)

    def forward(self, ids):
        x = self.embed(ids) + self.positions
        x = x + self.mix(x.transpose([0, 2, 1])).transpose([0, 2, 1])
        x = self.norm(x + activation(self.o, self.fc(x)))
        last = ids.argmax(-1) if self.o.get("pooled", "end") == "end" else paddle.full_like(ids[:, 0], 6)
        return self.projection(x[paddle.arange(x.shape[0]), last])


class Net(nn.Layer):
    def __init__(self, o):
        super().__init__()
        self.o = o
        self.image = ImageTower(o, 16, 8)
        self.text = TextTower(o, 16, 8)
        start = 1 / o.get("temperature", 0.07)
        initial = nn.initializer.Constant(math.log(start) if o.get("scale", "exp") == "exp" else start)
        name = o.get("scale_name", "logit_scale")
        self.add_parameter(name, self.create_parameter(o.get("scale_shape", []), default_initializer=initial))

    def normalised(self, name, x):
        if name not in self.o.get("normalised", ["image", "text"]):
            return x
        if self.o.get("normalise", "function") == "function":
            return F.normalize(x, axis=self.o.get("normalise_axis", 1))
        return x / x.norm(axis=self.o.get("normalise_axis", 1), keepdim=True)

    def forward(self, image, ids):
        scale = getattr(self, self.o.get("scale_name", "logit_scale"))
        scale = scale.exp() if self.o.get("scale", "exp") == "exp" else scale
        return self.normalised("image", self.image(image)), self.normalised("text", self.text(ids)), scale


def build(case):
    o = settings(case)
    model = Net(o)

    def loss(model, batch):
        image, text, scale = model(batch["image"], batch["ids"])
        logits = scale * image @ text.t()
        y = paddle.arange(logits.shape[0])
        losses = {"image": F.cross_entropy(logits, y), "text": F.cross_entropy(logits.t(), y)}
        chosen = o.get("directions", ["image", "text"])
        return sum(losses[name] for name in chosen) / len(chosen)

    return training(o, model, loss)
