"""The original: two convolutions with batch norm, in PyTorch."""

import torch
from torch import nn

from stepalign.workers import Training


class DigitNet(nn.Module):
    def __init__(self, options):
        super().__init__()
        first, second = options["channels"]
        # No bias: the batch norm after it takes any bias out again, so its gradient would be nothing but rounding.
        self.conv1 = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first, momentum=options["bn_momentum"])
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(second, momentum=options["bn_momentum"])
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(second * 4, 10)

    def forward(self, images):
        x = self.pool(nn.functional.relu(self.bn1(self.conv1(images))))
        x = self.pool(nn.functional.relu(self.bn2(self.conv2(x))))
        return self.fc(x.flatten(1))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["images"]), batch["labels"])


def make_optimizer(parameters, options):
    optimizer = torch.optim.SGD(parameters, lr=options["lr"], momentum=options["momentum"])
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size=options["decay_every"], gamma=0.5)


def build(case):
    model = DigitNet(case.options)
    optimizer, scheduler = make_optimizer(model.parameters(), case.options)
    return Training(model=model, loss=loss, optimizer=optimizer, scheduler=scheduler)


def schedule(case):
    return make_optimizer([nn.Parameter(torch.zeros(1))], case.options)
