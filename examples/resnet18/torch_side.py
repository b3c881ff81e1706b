"""ResNet-18 of Hugging Face transformers, for ten classes, trained with SGD and momentum."""

import torch
from transformers import ResNetConfig, ResNetForImageClassification

from stepalign.workers import Training


def loss(model, batch):
    return torch.nn.functional.cross_entropy(model(batch["images"]).logits, batch["labels"])


def build(case):
    options = case.options
    # transformers' default is ResNet-50; these are the sizes of ResNet-18.
    config = ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=10,
    )
    model = ResNetForImageClassification(config)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=options["lr"], momentum=options["momentum"], weight_decay=options["weight_decay"]
    )
    return Training(model=model, loss=loss, optimizer=optimizer)
