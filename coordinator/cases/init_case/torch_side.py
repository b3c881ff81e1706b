"""The original, in PyTorch. Runs in a process that has PyTorch and not PaddlePaddle."""

import torch
from torch import nn

from stepalign.workers import Training


class Classifier(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.hidden = nn.Linear(options["features"], options["hidden"])
        self.norm = nn.LayerNorm(options["hidden"])
        self.dropout = nn.Dropout(0.1)
        self.output = nn.Linear(options["hidden"], options["classes"])

    def forward(self, inputs):
        x = nn.functional.relu(self.norm(self.hidden(inputs)))
        return self.output(self.dropout(x))


def loss(model, batch):
    """Return the scalar that is trained on; `batch` maps the names from data.py to tensors."""
    return nn.functional.cross_entropy(model(batch["inputs"]), batch["labels"])


def clip_gradients(model):
    nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)


def make_scheduler(optimizer, options):
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=options["milestones"], gamma=0.5)


def build(case):
    """Return everything that one side needs to train. case has name, steps, mode, dtype, seed, options and folder."""
    options = case.options
    model = Classifier(options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options["lr"], weight_decay=options["weight_decay"])
    return Training(
        model=model,
        loss=loss,
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, options),  # stepped once after each optimizer step; None: a constant rate
        after_backward=clip_gradients,  # called between backward and the update; None: nothing
    )


def schedule(case):
    """Optional, for `stepalign schedule`: return the optimizer and its scheduler, without the model."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=case.options["lr"])
    return optimizer, make_scheduler(optimizer, case.options)
