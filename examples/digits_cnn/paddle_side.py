"""The port: two convolutions with batch norm, in PaddlePaddle."""

import paddle
from paddle import nn

from stepalign.workers import Training


class DigitNet(nn.Layer):
    def __init__(self, options):
        super().__init__()
        first, second = options["channels"]
        momentum = 1 - options["bn_momentum"]
        self.conv1 = nn.Conv2D(1, first, 3, padding=1, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(first, momentum=momentum)
        self.conv2 = nn.Conv2D(first, second, 3, padding=1, bias_attr=False)
        self.bn2 = nn.BatchNorm2D(second, momentum=momentum)
        self.pool = nn.MaxPool2D(2)
        self.fc = nn.Linear(second * 4, 10)

    def forward(self, images):
        x = self.pool(nn.functional.relu(self.bn1(self.conv1(images))))
        x = self.pool(nn.functional.relu(self.bn2(self.conv2(x))))
        return self.fc(x.flatten(1))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["images"]), batch["labels"])


def make_optimizer(parameters, options):
    scheduler = paddle.optimizer.lr.StepDecay(options["lr"], step_size=options["decay_every"], gamma=0.5)
    optimizer = paddle.optimizer.Momentum(learning_rate=scheduler, momentum=options["momentum"], parameters=parameters)
    return optimizer, scheduler


def build(case):
    model = DigitNet(case.options)
    optimizer, scheduler = make_optimizer(model.parameters(), case.options)
    return Training(model=model, loss=loss, optimizer=optimizer, scheduler=scheduler)


def schedule(case):
    return make_optimizer([paddle.create_parameter([1], "float32")], case.options)
