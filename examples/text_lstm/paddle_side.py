"""The port: an embedding, a bidirectional LSTM and two linear layers, in PaddlePaddle."""

import paddle
from paddle import nn

from stepalign.workers import Training


class LstmClassifier(nn.Layer):
    def __init__(self, options):
        super().__init__()
        hidden = options["hidden"]
        self.embedding = nn.Embedding(options["vocabulary"], options["embedding"])
        # Batch-major is paddle's default and an option in torch.
        self.lstm = nn.LSTM(options["embedding"], hidden, num_layers=2, direction="bidirect")
        self.dense = nn.Linear(2 * hidden, hidden)
        self.output = nn.Linear(hidden, 2)

    def forward(self, input_ids):
        states, _ = self.lstm(self.embedding(input_ids))
        return self.output(paddle.tanh(self.dense(states.mean(1))))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["input_ids"]), batch["labels"])


def build(case):
    options = case.options
    model = LstmClassifier(options)
    optimizer = paddle.optimizer.Adam(learning_rate=options["lr"], parameters=model.parameters())

    def clip_gradients(model):
        nn.utils.clip_grad_norm_(model.parameters(), options["max_norm"])

    return Training(model=model, loss=loss, optimizer=optimizer, after_backward=clip_gradients)
