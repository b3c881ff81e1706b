"""An autoencoder whose code is the nearest entry of a learnt codebook (VQ-VAE): the paddle side."""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import nn
from paddle_recipe import settings, training


class Quantizer(nn.Layer):
    def __init__(self, o, entries, width):
        super().__init__()
        self.o, self.beta = o, o.get("beta", 0.25)
        self.codebook = nn.Embedding(entries, width, weight_attr=nn.initializer.Uniform(-0.5, 0.5))

    def forward(self, z):
        o = self.o
        rows = z.transpose([0, 2, 3, 1])
        if o.get("rows", "transposed") == "reshaped":
            rows = z.reshape(rows.shape)
        flat = rows.reshape([-1, rows.shape[-1]]).detach()
        entries = self.codebook.weight.detach()
        distance = -2 * flat @ entries.t()
        if o.get("distance", "whole") == "whole":
            distance = distance + flat.pow(2).sum(1, keepdim=True) + entries.pow(2).sum(1)
        q = self.codebook(distance.argmin(1)).reshape(rows.shape)
        reached = q.detach() if o.get("codebook_term", "trains") == "detached" else q
        codebook, commitment = F.mse_loss(reached, rows.detach()), F.mse_loss(q.detach(), rows)
        if o.get("beta_on", "commitment") == "codebook":
            codebook, commitment = commitment, codebook
        passed = rows + (q - rows).detach() if o.get("straight_through", True) else q
        if o.get("rows", "transposed") == "reshaped":
            return passed.reshape(z.shape), codebook + self.beta * commitment
        return passed.transpose([0, 3, 1, 2]), codebook + self.beta * commitment


class Net(nn.Layer):
    def __init__(self, o):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2D(1, 8, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2D(8, 4, 3, padding=1))
        self.quantizer = Quantizer(o, 16, 4)
        self.decoder = nn.Sequential(
            nn.Conv2D(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2DTranspose(8, 1, 4, stride=2, padding=1)
        )

    def forward(self, x):
        q, extra = self.quantizer(self.encoder(x))
        return self.decoder(q), extra


def build(case):
    o = settings(case)
    model = Net(o)

    def loss(model, batch):
        output, extra = model(batch["x"])
        return F.mse_loss(output, batch["x"]) + extra

    return training(o, model, loss)
