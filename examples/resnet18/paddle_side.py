"""ResNet-18 of paddle.vision, for ten classes, trained with SGD and momentum."""

import paddle

from stepalign.workers import Training


def loss(model, batch):
    return paddle.nn.functional.cross_entropy(model(batch["images"]), batch["labels"])


def build(case):
    options = case.options
    model = paddle.vision.models.resnet18(num_classes=10)
    optimizer = paddle.optimizer.Momentum(
        learning_rate=options["lr"],
        momentum=options["momentum"],
        parameters=model.parameters(),
        weight_decay=options["weight_decay"],  # a number is L2 decay added to the gradient, as in torch's SGD
    )
    return Training(model=model, loss=loss, optimizer=optimizer)
