"""The port, in PaddlePaddle: the same functions as torch_side.py, in the same order."""

import paddle
from paddle import nn

from stepalign.workers import Training


class Classifier(nn.Layer):
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


def make_scheduler(options):
    return paddle.optimizer.lr.MultiStepDecay(options["lr"], milestones=options["milestones"], gamma=0.5)


def build(case):
    """Return everything that one side needs to train. case has name, steps, mode, dtype, seed, options and folder."""
    options = case.options
    model = Classifier(options)
    scheduler = make_scheduler(options)
    optimizer = paddle.optimizer.AdamW(
        learning_rate=scheduler, parameters=model.parameters(), weight_decay=options["weight_decay"]
    )
    return Training(
        model=model,
        loss=loss,
        optimizer=optimizer,
        scheduler=scheduler,  # stepped once after each optimizer step; None: a constant rate
        after_backward=clip_gradients,  # called between backward and the update; None: nothing
    )


def schedule(case):
    """Optional, for `stepalign schedule`: return the optimizer and its scheduler, without the model."""
    scheduler = make_scheduler(case.options)
    parameter = paddle.create_parameter([1], "float32")
    return paddle.optimizer.AdamW(learning_rate=scheduler, parameters=[parameter]), scheduler
