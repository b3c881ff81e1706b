"""BertForSequenceClassification of PaddleNLP, fine-tuned as STEP4 does."""

import paddle
from paddlenlp.transformers import BertConfig, BertForSequenceClassification, LinearDecayWithWarmup

from stepalign.workers import Training

NO_DECAY = ("bias", "layer_norm.weight", "norm1.weight", "norm2.weight")


def loss(model, batch):
    input_ids = batch["input_ids"]
    # Without a mask PaddleNLP makes this one itself, and transformers makes none: both are told.
    logits = model(input_ids, attention_mask=(input_ids != model.config.pad_token_id).astype("int64"))
    return paddle.nn.functional.cross_entropy(logits, batch["labels"])


def make_scheduler(options):
    return LinearDecayWithWarmup(options["lr"], options["total_steps"], options["warmup_steps"])


def build(case):
    options = case.options
    config = BertConfig(**options["config"], num_labels=2)
    model = BertForSequenceClassification(config)
    # transformers never trains the padding token's embedding and starts it at zero; PaddleNLP trains it like any other.
    model.bert.embeddings.word_embeddings._padding_idx = config.pad_token_id
    # The filter is called with paddle's own parameter names, so the decayed ones are looked up by the model's names.
    decayed = {p.name for name, p in model.named_parameters() if not name.endswith(NO_DECAY)}
    optimizer = paddle.optimizer.AdamW(
        learning_rate=options["lr"],
        parameters=model.parameters(),
        epsilon=1e-8,
        weight_decay=options["weight_decay"],
        apply_decay_param_fun=lambda name: name in decayed,
    )
    return Training(model=model, loss=loss, optimizer=optimizer)


def schedule(case):
    scheduler = make_scheduler(case.options)
    parameter = paddle.create_parameter([1], "float32")
    return paddle.optimizer.AdamW(learning_rate=scheduler, parameters=[parameter]), scheduler
