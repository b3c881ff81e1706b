"""The port: the same text classifier and its training, in PaddlePaddle.

Read it beside torch_side.py: the two have the same functions in the same order, and a comment wherever the frameworks
want different words for the same thing. The modules have the same names, so case.toml needs no rules to rename them,
and linear weights ([in, out] here, [out, in] in torch) are transposed by stepalign because they are linear layers.
"""

import math

import paddle
from paddle import nn

from stepalign.workers import Training


class Embeddings(nn.Layer):
    def __init__(self, options):
        super().__init__()
        # No padding_idx: paddle would force that row's output to zero, torch would only stop training the row.
        self.word_embeddings = nn.Embedding(options["vocabulary"], options["hidden"])
        self.position_embeddings = nn.Embedding(options["positions"], options["hidden"])
        self.token_type_embeddings = nn.Embedding(options["token_types"], options["hidden"])
        # The default epsilon is 1e-5 in both frameworks; BERT's is 1e-12. torch calls it eps.
        self.norm = nn.LayerNorm(options["hidden"], epsilon=options["layer_norm_eps"])
        self.dropout = nn.Dropout(options["dropout"])

    def forward(self, input_ids):
        positions = paddle.arange(input_ids.shape[1], dtype="int64")
        token_types = paddle.zeros_like(input_ids)
        x = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        x = x + self.token_type_embeddings(token_types)
        return self.dropout(self.norm(x))


class Attention(nn.Layer):
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
        # transpose() takes the whole permutation here; torch's swaps two axes.
        return x.reshape([batch, length, self.heads, hidden // self.heads]).transpose([0, 2, 1, 3])

    def forward(self, x):
        query = self.split_heads(self.query(x))
        key = self.split_heads(self.key(x))
        value = self.split_heads(self.value(x))
        scores = paddle.matmul(query, key, transpose_y=True) / math.sqrt(query.shape[-1])
        weights = self.dropout(nn.functional.softmax(scores, axis=-1))
        context = paddle.matmul(weights, value).transpose([0, 2, 1, 3]).reshape(x.shape)
        return self.output(context)


class EncoderLayer(nn.Layer):
    def __init__(self, options):
        super().__init__()
        self.attention = Attention(options)
        self.attention_norm = nn.LayerNorm(options["hidden"], epsilon=options["layer_norm_eps"])
        self.intermediate = nn.Linear(options["hidden"], options["intermediate"])
        self.output = nn.Linear(options["intermediate"], options["hidden"])
        self.output_norm = nn.LayerNorm(options["hidden"], epsilon=options["layer_norm_eps"])
        self.dropout = nn.Dropout(options["dropout"])

    def forward(self, x):
        x = self.attention_norm(x + self.dropout(self.attention(x)))
        y = self.output(nn.functional.gelu(self.intermediate(x)))
        return self.output_norm(x + self.dropout(y))


class TextClassifier(nn.Layer):
    def __init__(self, options):
        super().__init__()
        self.embeddings = Embeddings(options)
        self.encoder = nn.LayerList([EncoderLayer(options) for _ in range(options["layers"])])
        self.pooler = nn.Linear(options["hidden"], options["hidden"])
        self.classifier = nn.Linear(options["hidden"], options["labels"])
        self.dropout = nn.Dropout(options["dropout"])

    def forward(self, input_ids):
        x = self.embeddings(input_ids)
        for layer in self.encoder:
            x = layer(x)
        pooled = paddle.tanh(self.pooler(x[:, 0]))
        return self.classifier(self.dropout(pooled))


def is_decayed(name):
    """Say whether a parameter is subject to weight decay: all are but biases and LayerNorm weights."""
    return not (name.endswith(".bias") or "norm" in name)


def loss(model, batch):
    """Return the scalar that is trained on. `batch` holds the arrays of the data, by name, as paddle tensors."""
    return nn.functional.cross_entropy(model(batch["input_ids"]), batch["labels"])


def linear_schedule(options):
    """Rise from 0 to the full rate in `warmup_steps`, then fall to 0 at `total_steps`."""
    warmup, total = options["warmup_steps"], options["total_steps"]

    def factor(step):
        if step < warmup:
            return step / warmup
        return max(0.0, (total - step) / (total - warmup))

    return paddle.optimizer.lr.LambdaDecay(options["lr"], factor)


def build(case):
    options = case.options
    model = TextClassifier(options)
    # apply_decay_param_fun is called with the names that paddle made up ("linear_3.b_0"), not with the model's
    # ("encoder.0.output.bias"). A filter on the model's names would match nothing and decay everything, so the
    # decayed ones are looked up by the model's names and kept by paddle's.
    decayed = {p.name for name, p in model.named_parameters() if is_decayed(name)}
    # The scheduler is what paddle calls the learning rate; torch's scheduler takes the optimizer instead.
    scheduler = linear_schedule(options) if options["schedule_in_training"] else None
    optimizer = paddle.optimizer.AdamW(
        learning_rate=scheduler or options["lr"],
        parameters=model.parameters(),
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-8,
        weight_decay=options["weight_decay"],
        apply_decay_param_fun=lambda name: name in decayed,
    )
    return Training(model=model, loss=loss, optimizer=optimizer, scheduler=scheduler)


def schedule(case):
    """For `stepalign schedule`: the rates alone, thousands of steps in seconds. One dummy parameter will do."""
    scheduler = linear_schedule(case.options)
    parameter = paddle.create_parameter([1], "float32")
    return paddle.optimizer.AdamW(learning_rate=scheduler, parameters=[parameter]), scheduler
