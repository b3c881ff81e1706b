"""A tiny MLP whose step takes about a millisecond."""

import torch
from torch import nn

from stepalign.workers import Training


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def build(case):
    options = case.options
    sizes = [options["inputs"], *[options["width"]] * options["depth"]]
    layers = [layer for pair in zip(sizes, sizes[1:]) for layer in (nn.Linear(*pair), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(options["width"], 10))
    return Training(model=model, loss=loss, optimizer=torch.optim.AdamW(model.parameters(), lr=options["lr"]))
