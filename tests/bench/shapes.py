"""The sets of tensors that benches update: a GPT, many small ones, one of any size."""

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def gpt(width: int = 384, blocks: int = 6, vocabulary: int = 256, positions: int = 256) -> Shapes:
    """10.84 million parameters in 76 tensors."""
    shapes: Shapes = {"tokens": (vocabulary, width), "positions": (positions, width)}
    for block in range(blocks):
        linear = {
            "qkv": (3 * width, width),
            "out": (width, width),
            "up": (4 * width, width),
            "down": (width, 4 * width),
        }
        for name, (rows, columns) in linear.items():
            shapes |= {f"{block}.{name}.weight": (rows, columns), f"{block}.{name}.bias": (rows,)}
        for name in ("norm1", "norm2"):
            shapes |= {f"{block}.{name}.weight": (width,), f"{block}.{name}.bias": (width,)}
    return {**shapes, "norm.weight": (width,), "norm.bias": (width,)}


def many(count: int = 1000, side: int = 16) -> Shapes:
    """A thousand small matrices."""
    return {f"w{place}": (side, side) for place in range(count)}


def flat(shapes: Shapes) -> Shapes:
    """As many numbers in one tensor: what a packed layout holds."""
    return {"all": (sum(torch.Size(shape).numel() for shape in shapes.values()),)}


def drawn(shapes: Shapes, seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    """Normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
