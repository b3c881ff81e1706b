"""A causal decoder with RMSNorm, rotary positions, grouped-query attention and SwiGLU: the paddle side."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle_recipe import attention, settings, training


class RMSNorm(nn.Layer):
    def __init__(self, o, width):
        super().__init__()
        self.eps = o.get("norm_eps", 1e-6)
        self.plus_one = o.get("norm_weight", "plain") == "plus_one"
        initial = nn.initializer.Constant(0.0 if self.plus_one else 1.0)
        self.weight = self.create_parameter([width], default_initializer=initial)

    def forward(self, x):
        x = x * paddle.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return x * (1.0 + self.weight if self.plus_one else self.weight)


def angles(base, first, length, width, dtype):
    """Return the angle of each position and pair of a head, [length, width / 2]."""
    base = paddle.to_tensor(base, dtype=dtype)
    frequencies = 1.0 / base ** (paddle.arange(0, width, 2, dtype=dtype) / width)
    positions = paddle.arange(length, dtype=dtype) + first
    return paddle.outer(positions, frequencies)


def rotate(o, x, angle):
    """Return ``x`` [batch, heads, length, width] with its pairs rotated: halves, or neighbours if interleaved."""
    cos, sin = angle.cos(), angle.sin()
    if o.get("rope", "halves") == "halves":
        first, second = x.chunk(2, -1)
        return paddle.concat([first * cos - second * sin, second * cos + first * sin], -1)
    first, second = x[..., 0::2], x[..., 1::2]
    return paddle.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)


class Attention(nn.Layer):
    def __init__(self, o, width):
        super().__init__()
        self.o, self.heads, self.groups = o, 4, 2
        self.rope_base = o.get("rope_base", 10000.0)
        self.q_proj = nn.Linear(width, width, bias_attr=False)
        self.k_proj = nn.Linear(width, width // 2, bias_attr=False)
        self.v_proj = nn.Linear(width, width // 2, bias_attr=False)
        self.o_proj = nn.Linear(width, width, bias_attr=False)
        if o.get("tables", "computed") == "buffer":
            size, dtype = width // self.heads, self.q_proj.weight.dtype
            self.register_buffer("angle", angles(self.rope_base, 0, 12, size, dtype), persistable=False)

    def repeated(self, x):
        times = self.heads // self.groups
        if self.o.get("repeat", "interleave") == "interleave":
            return x.repeat_interleave(times, 1)
        return x.tile([1, times, 1, 1])

    def forward(self, x, mask):
        o = self.o
        batch, length, _ = x.shape
        q = self.q_proj(x).reshape([batch, length, self.heads, -1]).transpose([0, 2, 1, 3])
        k, v = (
            f(x).reshape([batch, length, self.groups, -1]).transpose([0, 2, 1, 3]) for f in (self.k_proj, self.v_proj)
        )
        if o.get("tables", "computed") == "buffer":
            angle = self.angle
        else:
            angle = angles(self.rope_base, o.get("first_position", 0), length, q.shape[-1], x.dtype)
        q, k = rotate(o, q, angle), rotate(o, k, angle)
        h = attention(o, q, self.repeated(k), self.repeated(v), mask)
        return self.o_proj(h.transpose([0, 2, 1, 3]).flatten(2))


class FeedForward(nn.Layer):
    def __init__(self, o, width):
        super().__init__()
        self.o = o
        self.gate_proj = nn.Linear(width, 2 * width, bias_attr=False)
        self.up_proj = nn.Linear(width, 2 * width, bias_attr=False)
        self.down_proj = nn.Linear(2 * width, width, bias_attr=False)

    def forward(self, x):
        gate, up = self.gate_proj(x), self.up_proj(x)
        if self.o.get("gated", "gate") == "up":
            gate, up = up, gate
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Layer):
    def __init__(self, o, width):
        super().__init__()
        self.input_norm = RMSNorm(o, width)
        self.attention = Attention(o, width)
        self.post_norm = RMSNorm(o, width)
        self.mlp = FeedForward(o, width)

    def forward(self, x, mask):
        x = x + self.attention(self.input_norm(x), mask)
        return x + self.mlp(self.post_norm(x))


class Net(nn.Layer):
    def __init__(self, o):
        super().__init__()
        self.o = o
        width = o.get("width", 32)
        self.embed = nn.Embedding(40, width)
        self.layers = nn.LayerList([Block(o, width) for _ in range(o.get("depth", 2))])
        self.norm = RMSNorm(o, width)
        if not o.get("tied", False):
            self.head = nn.Linear(width, 40, bias_attr=False)

    def forward(self, ids):
        x = self.embed(ids)
        length = ids.shape[1]
        hidden = paddle.triu(paddle.ones([length, length]), 1 + self.o.get("causal_offset", 0)).astype("bool")
        mask = paddle.zeros([length, length], dtype=x.dtype).masked_fill(hidden, float("-inf"))
        for layer in self.layers:
            x = layer(x, mask)
        x = self.norm(x)
        return paddle.matmul(x, self.embed.weight, transpose_y=True) if self.o.get("tied", False) else self.head(x)


def build(case):
    o = settings(case)
    model = Net(o)

    def loss(model, batch):
        logits, labels = model(batch["ids"]).flatten(0, 1), batch["labels"].flatten()
        labelled = (labels != -100).astype(logits.dtype)
        each = F.cross_entropy(logits, labels.clip(min=0), reduction="none").flatten()
        return (each * labelled).sum() / labelled.sum()

    return training(o, model, loss)
