"""BertForSequenceClassification of Hugging Face transformers, fine-tuned as STEP4 does."""

import torch
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

from stepalign.workers import Training

NO_DECAY = ("bias", "LayerNorm.weight")


def loss(model, batch):
    input_ids = batch["input_ids"]
    # PaddleNLP masks the padding by itself when it is given no mask; transformers attends to it. Both are told.
    logits = model(input_ids, attention_mask=(input_ids != model.config.pad_token_id).long()).logits
    return torch.nn.functional.cross_entropy(logits, batch["labels"])


def make_scheduler(optimizer, options):
    return get_linear_schedule_with_warmup(optimizer, options["warmup_steps"], options["total_steps"])


def build(case):
    options = case.options
    # "eager" is the attention that PaddleNLP computes; "sdpa", the default, rounds differently.
    config = BertConfig(**options["config"], num_labels=2, attn_implementation="eager")
    model = BertForSequenceClassification(config)
    named = list(model.named_parameters())
    decayed = [p for name, p in named if not name.endswith(NO_DECAY)]
    spared = [p for name, p in named if name.endswith(NO_DECAY)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": options["weight_decay"]}, {"params": spared, "weight_decay": 0.0}],
        lr=options["lr"],
        eps=1e-8,
    )
    return Training(model=model, loss=loss, optimizer=optimizer)


def schedule(case):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=case.options["lr"])
    return optimizer, make_scheduler(optimizer, case.options)
