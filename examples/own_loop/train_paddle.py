"""The port of train_torch.py to paddle, as a plain loop."""

import argparse

import paddle
from paddle.io import DataLoader, TensorDataset
from stepalign_attach import attach  # added for stepalign (1)


class Classifier(paddle.nn.Layer):
    """Embeds tokens, encodes them, and classifies their mean."""

    def __init__(self, words=200, width=32, labels=3):
        super().__init__()
        self.embedding = paddle.nn.Embedding(words, width)
        self.encoder = paddle.nn.TransformerEncoderLayer(width, 4, 64, dropout=0.1)
        self.dropout = paddle.nn.Dropout(0.1)
        self.head = paddle.nn.Linear(width, labels)

    def forward(self, input_ids):
        hidden = self.encoder(self.embedding(input_ids)).mean(1)
        return self.head(self.dropout(hidden))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=4)
    args = parser.parse_args()
    client = attach()  # (2)
    paddle.seed(0)
    model = Classifier()
    dataset = TensorDataset([paddle.randint(0, 200, (80, 12)), paddle.randint(0, 3, (80,))])
    loader = DataLoader(dataset, batch_size=8, shuffle=True)
    steps = len(loader) * args.epochs
    scheduler = paddle.optimizer.lr.LambdaDecay(
        args.lr, lambda step: min((step + 1) / args.warmup, max(0.0, 1 - step / steps))
    )
    decayed = {each.name for each in model.parameters() if each.ndim > 1}
    optimizer = paddle.optimizer.AdamW(
        scheduler,
        parameters=model.parameters(),
        weight_decay=0.01,
        apply_decay_param_fun=lambda name: name in decayed,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(0.25),
    )
    model.train()
    for epoch in range(args.epochs):
        for input_ids, labels in client.batches(  # (3)
            loader, model=model, optimizer=optimizer, scheduler=scheduler, names=("input_ids", "labels")
        ):
            loss = paddle.nn.functional.cross_entropy(model(input_ids), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.clear_grad()
            client.step(loss=loss)  # (4)
        print(f"epoch {epoch}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
