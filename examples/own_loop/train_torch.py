"""A text classifier with a trainer of its own, in the manner of Hugging Face's: the loop is the trainer's, not the script's.

    python train_torch.py --epochs 3        # alone: trains on its own data
    stepalign run --torch "train_torch.py" --paddle "train_paddle.py" --data data.py --steps 10 --config align.toml
"""

import argparse

import torch
from stepalign_attach import attach  # added for stepalign (1)
from torch.utils.data import DataLoader, TensorDataset


class Classifier(torch.nn.Module):
    """Embeds tokens, encodes them, and classifies their mean."""

    def __init__(self, words=200, width=32, labels=3):
        super().__init__()
        self.embedding = torch.nn.Embedding(words, width)
        self.encoder = torch.nn.TransformerEncoderLayer(width, 4, 64, dropout=0.1, batch_first=True)
        self.dropout = torch.nn.Dropout(0.1)
        self.classifier = torch.nn.Linear(width, labels)

    def forward(self, input_ids, labels=None):
        hidden = self.encoder(self.embedding(input_ids)).mean(1)
        logits = self.classifier(self.dropout(hidden))
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


class Trainer:
    """Trains a model: decay on weights only, linear warm-up and decay of the rate, clipped gradients."""

    def __init__(self, model, dataset, args):
        self.model, self.dataset, self.args = model, dataset, args

    def create_optimizer_and_scheduler(self, steps):
        decayed = [each for name, each in self.model.named_parameters() if each.ndim > 1]
        others = [each for name, each in self.model.named_parameters() if each.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=self.args.lr
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min((step + 1) / self.args.warmup, max(0.0, 1 - step / steps))
        )

    def get_train_dataloader(self):
        return DataLoader(self.dataset, batch_size=8, shuffle=True, num_workers=2, collate_fn=collate)

    def training_step(self, inputs):
        self.model.train()
        loss = self.model(**inputs)["loss"]
        loss.backward()
        return loss.detach()

    def train(self):
        client = attach()  # (2)
        loader = self.get_train_dataloader()
        self.create_optimizer_and_scheduler(len(loader) * self.args.epochs)
        for epoch in range(self.args.epochs):
            for inputs in client.batches(  # (3)
                loader, model=self.model, optimizer=self.optimizer, scheduler=self.scheduler
            ):
                loss = self.training_step(inputs)
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
                self.optimizer.step()
                self.scheduler.step()
                self.model.zero_grad()
                client.step(loss=loss)  # (4)
            print(f"epoch {epoch}: loss {loss.item():.4f}")


def collate(rows):
    input_ids, labels = zip(*rows)
    return {"input_ids": torch.stack(input_ids), "labels": torch.stack(labels)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=4)
    args = parser.parse_args()
    torch.manual_seed(0)
    dataset = TensorDataset(torch.randint(200, (80, 12)), torch.randint(3, (80,)))
    Trainer(Classifier(), dataset, args).train()


if __name__ == "__main__":
    main()
