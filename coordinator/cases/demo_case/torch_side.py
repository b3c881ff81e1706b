"""The original: a BERT-style text classifier and its training, in PyTorch.

stepalign calls `build(case)` once, in a process that has PyTorch and no other framework. What you return is all that
it needs: it loads the initial weights, sets train or eval mode, fetches the batches and runs the steps. In your own
case, import your model here instead of writing it down.
"""

import math

import torch
from torch import nn

from stepalign.workers import Training


class Embeddings(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.word_embeddings = nn.Embedding(options["vocabulary"], options["hidden"])
        self.position_embeddings = nn.Embedding(options["positions"], options["hidden"])
        self.token_type_embeddings = nn.Embedding(options["token_types"], options["hidden"])
        self.norm = nn.LayerNorm(options["hidden"], eps=options["layer_norm_eps"])
        self.dropout = nn.Dropout(options["dropout"])

    def forward(self, input_ids):
        # New tensors are made on the batch's device, so that the same script runs on a CPU and on a GPU.
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        token_types = torch.zeros_like(input_ids)
        x = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        x = x + self.token_type_embeddings(token_types)
        return self.dropout(self.norm(x))


class Attention(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.heads = options["heads"]
        self.query = nn.Linear(options["hidden"], options["hidden"])
        self.key = nn.Linear(options["hidden"], options["hidden"])
        self.value = nn.Linear(options["hidden"], options["hidden"])
        self.output = nn.Linear(options["hidden"], options["hidden"])
        self.dropout = nn.Dropout(options["dropout"])

    def split_heads(self, x):
        batch, length, hidden = x.shape
        return x.reshape(batch, length, self.heads, hidden // self.heads).transpose(1, 2)

    def forward(self, x):
        query = self.split_heads(self.query(x))
        key = self.split_heads(self.key(x))
        value = self.split_heads(self.value(x))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        weights = self.dropout(torch.softmax(scores, dim=-1))
        context = (weights @ value).transpose(1, 2).reshape(x.shape)
        return self.output(context)


class EncoderLayer(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.attention = Attention(options)
        self.attention_norm = nn.LayerNorm(options["hidden"], eps=options["layer_norm_eps"])
        self.intermediate = nn.Linear(options["hidden"], options["intermediate"])
        self.output = nn.Linear(options["intermediate"], options["hidden"])
        self.output_norm = nn.LayerNorm(options["hidden"], eps=options["layer_norm_eps"])
        self.dropout = nn.Dropout(options["dropout"])

    def forward(self, x):
        x = self.attention_norm(x + self.dropout(self.attention(x)))
        y = self.output(nn.functional.gelu(self.intermediate(x)))
        return self.output_norm(x + self.dropout(y))


class TextClassifier(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.embeddings = Embeddings(options)
        self.encoder = nn.ModuleList([EncoderLayer(options) for _ in range(options["layers"])])
        self.pooler = nn.Linear(options["hidden"], options["hidden"])
        self.classifier = nn.Linear(options["hidden"], options["labels"])
        self.dropout = nn.Dropout(options["dropout"])
        self.apply(init_weights)

    def forward(self, input_ids):
        x = self.embeddings(input_ids)
        for layer in self.encoder:
            x = layer(x)
        pooled = torch.tanh(self.pooler(x[:, 0]))
        return self.classifier(self.dropout(pooled))


def init_weights(module):
    """Initialise as BERT does. Only this side does it: case.toml says that both start from torch's weights."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def is_decayed(name):
    """Say whether a parameter is subject to weight decay: all are but biases and LayerNorm weights."""
    return not (name.endswith(".bias") or "norm" in name)


def loss(model, batch):
    """Return the scalar that is trained on. `batch` holds the arrays of the data, by name, as torch tensors."""
    return nn.functional.cross_entropy(model(batch["input_ids"]), batch["labels"])


def linear_schedule(optimizer, options):
    """Rise from 0 to the full rate in `warmup_steps`, then fall to 0 at `total_steps`."""
    warmup, total = options["warmup_steps"], options["total_steps"]

    def factor(step):
        if step < warmup:
            return step / warmup
        return max(0.0, (total - step) / (total - warmup))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def build(case):
    options = case.options
    model = TextClassifier(options)
    named = list(model.named_parameters())
    # torch: weight decay belongs to a parameter group, so there are two. (On the paddle side it is a name filter.)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for name, p in named if is_decayed(name)], "weight_decay": options["weight_decay"]},
            {"params": [p for name, p in named if not is_decayed(name)], "weight_decay": 0.0},
        ],
        lr=options["lr"],
        betas=(0.9, 0.999),
        eps=1e-8,
    )
    # A scheduler that you hand over is stepped once after each optimizer step; None leaves the rate as it is.
    scheduler = linear_schedule(optimizer, options) if options["schedule_in_training"] else None
    return Training(model=model, loss=loss, optimizer=optimizer, scheduler=scheduler)


def schedule(case):
    """For `stepalign schedule`: the rates alone, thousands of steps in seconds. One dummy parameter will do."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=case.options["lr"])
    return optimizer, linear_schedule(optimizer, case.options)
