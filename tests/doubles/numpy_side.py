"""A side's script for the numpy double: the model is a dict of arrays, the loss gives its gradients along."""

import numpy as np

from stepalign.workers import Training


def build(case):
    random = np.random.default_rng(case.seed)
    weight, bias = random.normal(size=(2, 3)), random.normal(size=3)
    return Training(model={"fc.weight": weight, "fc.bias": bias}, loss=loss, optimizer={"lr": [0.125]})


def loss(model, batch):
    error = batch["x"] @ model["fc.weight"] + model["fc.bias"] - batch["y"]
    gradient = 2 * error / error.size
    return np.mean(error * error), {"fc.weight": batch["x"].T @ gradient, "fc.bias": gradient.sum(0)}


def schedule(case):
    return {"lr": [0.125]}, None
