"""Text that a model goes on to write."""

import torch

from .gpt import GPT


@torch.no_grad()
def generate(model: GPT, prompt: bytes, length: int, *, temperature: float, seed: int) -> bytes:
    """The prompt and `length` bytes more, each drawn from the model's own prediction; a function of its arguments.

    At temperature 0 it is the likeliest byte each time. An empty prompt begins at a new line.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    text = list(prompt or b"\n")
    mode = model.training
    model.eval()
    try:
        for _ in range(length):
            logits = model(torch.tensor([text[-model.context :]]))[0, -1]
            if temperature > 0:
                chances = torch.softmax((logits - logits.max()) / temperature, dim=0)
                text.append(int(torch.multinomial(chances, 1, generator=generator)))
            else:
                text.append(int(logits.argmax()))
    finally:
        model.train(mode)
    return bytes(text)
