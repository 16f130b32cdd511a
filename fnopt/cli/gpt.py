"""A byte-level GPT, small enough for two cores: pre-norm blocks, causal attention, input and output embedding tied."""

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BYTES = 256


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, future: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        # by hand: scaled_dot_product_attention takes almost four times as long in bfloat16 on a CPU (torch 2.13)
        scores = (q / math.sqrt(C // self.heads)) @ k.mT + future
        mixed = torch.softmax(scores, dim=-1) @ v
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(B, T, C)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class GPT(nn.Module):
    """Logits of the next byte at every place: int64 [B, T] -> float [B, T, 256], for T up to `context`."""

    def __init__(self, *, width: int, layers: int, heads: int, context: int, dropout: float = 0.0):
        super().__init__()
        self.context = context
        self.bytes = nn.Embedding(BYTES, width)
        self.places = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, BYTES, bias=False)
        self.head.weight = self.bytes.weight
        for name, weight in cast(Iterable[tuple[str, nn.Parameter]], self.named_parameters()):
            if weight.ndim == 2:  # as in GPT-2: what adds to the residual stream is smaller, the deeper it is
                adds = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers) if adds else 0.02)

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        future = torch.full((T, T), -math.inf, device=x.device).triu(1)  # 0 up to the own place, then -inf
        x = self.dropout(self.bytes(x) + self.places(torch.arange(T, device=x.device)))
        for block in self.blocks:
            x = block(x, future)
        return self.head(self.norm(x))
