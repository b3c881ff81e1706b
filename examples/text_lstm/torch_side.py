"""The original: an embedding, a bidirectional LSTM and two linear layers, in PyTorch."""

import torch
from torch import nn

from stepalign.workers import Training


class LstmClassifier(nn.Module):
    def __init__(self, options):
        super().__init__()
        hidden = options["hidden"]
        self.embedding = nn.Embedding(options["vocabulary"], options["embedding"])
        self.lstm = nn.LSTM(options["embedding"], hidden, num_layers=2, batch_first=True, bidirectional=True)
        self.dense = nn.Linear(2 * hidden, hidden)
        self.output = nn.Linear(hidden, 2)

    def forward(self, input_ids):
        states, _ = self.lstm(self.embedding(input_ids))
        return self.output(torch.tanh(self.dense(states.mean(1))))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["input_ids"]), batch["labels"])


def build(case):
    options = case.options
    model = LstmClassifier(options)
    optimizer = torch.optim.Adam(model.parameters(), lr=options["lr"])

    def clip_gradients(model):
        nn.utils.clip_grad_norm_(model.parameters(), options["max_norm"])

    return Training(model=model, loss=loss, optimizer=optimizer, after_backward=clip_gradients)
