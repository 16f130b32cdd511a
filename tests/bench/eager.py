"""Without a compiler: the pure AdamW, eager, against torch.optim.AdamW as it comes.

python tests/bench/eager.py
"""

from collections.abc import Callable
from typing import Any

from harness import Claim, Pair, main
from shapes import drawn, gpt
from update import torch_update

import fnopt


def ours() -> Callable[[], Any]:
    """AdamW.update, leaf by leaf, every result in new memory."""
    rule, grads = fnopt.AdamW(1e-3), drawn(gpt(), 1)
    params = drawn(gpt(), 0)
    held: list[Any] = [params, rule.init_state(params)]

    def call() -> None:
        held[0], held[1] = rule.update(grads, held[1], held[0])

    return call


def pair() -> Pair:
    """Ours and torch's, as they come."""
    return Pair(ours(), torch_update(gpt()), calls=3)


CLAIMS = [Claim("eager_gpt", "AdamW, eager, GPT 10.8 M", "torch.optim.AdamW default", 1.2, pair)]


if __name__ == "__main__":
    main(CLAIMS)
