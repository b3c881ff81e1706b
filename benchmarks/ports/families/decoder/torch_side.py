"""A causal decoder with RMSNorm, rotary positions, grouped-query attention and SwiGLU: the torch side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch_recipe import attention, settings, training


class RMSNorm(nn.Module):
    def __init__(self, o, width):
        super().__init__()
        self.eps = o.get("norm_eps", 1e-6)
        self.plus_one = o.get("norm_weight", "plain") == "plus_one"
        self.weight = nn.Parameter(torch.zeros(width) if self.plus_one else torch.ones(width))

    def forward(self, x):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return x * (1.0 + self.weight if self.plus_one else self.weight)


def angles(base, first, length, width, dtype):
    """Return the angle of each position and pair of a head, [length, width / 2]."""
    frequencies = 1.0 / base ** (torch.arange(0, width, 2, dtype=dtype) / width)
    positions = torch.arange(length, dtype=dtype) + first
    return torch.outer(positions, frequencies)


def rotate(o, x, angle):
    """Return ``x`` [batch, heads, length, width] with its pairs rotated: halves, or neighbours if interleaved."""
    cos, sin = angle.cos(), angle.sin()
    if o.get("rope", "halves") == "halves":
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)


class Attention(nn.Module):
    def __init__(self, o, width):
        super().__init__()
        self.o, self.heads, self.groups = o, 4, 2
        self.rope_base = o.get("rope_base", 10000.0)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width // 2, bias=False)
        self.v_proj = nn.Linear(width, width // 2, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        if o.get("tables", "computed") == "buffer":
            size, dtype = width // self.heads, self.q_proj.weight.dtype
            self.register_buffer("angle", angles(self.rope_base, 0, 12, size, dtype), persistent=False)

    def repeated(self, x):
        times = self.heads // self.groups
        if self.o.get("repeat", "interleave") == "interleave":
            return x.repeat_interleave(times, 1)
        return x.repeat(1, times, 1, 1)

    def forward(self, x, mask):
        o = self.o
        q = self.q_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (f(x).unflatten(-1, (self.groups, -1)).transpose(1, 2) for f in (self.k_proj, self.v_proj))
        if o.get("tables", "computed") == "buffer":
            angle = self.angle
        else:
            angle = angles(self.rope_base, o.get("first_position", 0), x.shape[1], q.shape[-1], x.dtype)
        q, k = rotate(o, q, angle), rotate(o, k, angle)
        h = attention(o, q, self.repeated(k), self.repeated(v), mask)
        return self.o_proj(h.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, o, width):
        super().__init__()
        self.o = o
        self.gate_proj = nn.Linear(width, 2 * width, bias=False)
        self.up_proj = nn.Linear(width, 2 * width, bias=False)
        self.down_proj = nn.Linear(2 * width, width, bias=False)

    def forward(self, x):
        gate, up = self.gate_proj(x), self.up_proj(x)
        if self.o.get("gated", "gate") == "up":
            gate, up = up, gate
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, o, width):
        super().__init__()
        self.input_norm = RMSNorm(o, width)
        self.attention = Attention(o, width)
        self.post_norm = RMSNorm(o, width)
        self.mlp = FeedForward(o, width)

    def forward(self, x, mask):
        x = x + self.attention(self.input_norm(x), mask)
        return x + self.mlp(self.post_norm(x))


class Net(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.o = o
        width = o.get("width", 32)
        self.embed = nn.Embedding(40, width)
        self.layers = nn.ModuleList([Block(o, width) for _ in range(o.get("depth", 2))])
        self.norm = RMSNorm(o, width)
        self.head = nn.Linear(width, 40, bias=False)
        nn.init.normal_(self.embed.weight, std=0.3)
        if o.get("tied", False):
            self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        length = ids.shape[1]
        hidden = torch.ones(length, length).triu(1 + self.o.get("causal_offset", 0)).bool()
        mask = torch.zeros(length, length, dtype=x.dtype).masked_fill(hidden, float("-inf"))
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(self.norm(x))


def build(case):
    o = settings(case)
    model = Net(o)

    def loss(model, batch):
        return F.cross_entropy(model(batch["ids"]).flatten(0, 1), batch["labels"].flatten())

    return training(o, model, loss)
