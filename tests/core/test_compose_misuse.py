"""What cannot be composed is refused when the whole is made, not in its first update."""

import pytest
import torch
from torch import nn

from fnopt import SGD, Adam, AdamW, ClipNorm, ClipValue, chain, ema, freeze, partition
from fnopt.errors import UsageError

c, v, s = ClipNorm(1.0), ClipValue(0.5), SGD(0.1)
torch_adamw = torch.optim.AdamW(nn.Linear(1, 1).parameters())
MISUSES = {
    "order": (lambda: chain(s, c), "chain: SGD is an Optimizer and stands at place 1 of 2, expected last"),
    "two": (lambda: chain(c, s, Adam()), "chain: SGD is an Optimizer and stands at place 2 of 3, expected last"),
    "nested order": (lambda: chain(chain(c, s), v), "chain: SGD is an Optimizer and stands at place 2 of 3"),
    "class": (lambda: chain(ClipNorm, s), "chain: got the class ClipNorm, expected an instance; write ClipNorm(…)"),
    "stateful": (lambda: chain(c, torch_adamw), "chain: got a stateful AdamW that holds its own params, expected a"),
    "stateful fix": (lambda: chain(torch_adamw), "write fnopt.AdamW(lr=…)"),
    "float": (lambda: chain(1.0, s), "chain: got 1.0, expected a record with init_state and"),
    "function": (lambda: chain(c, abs), "chain: got <built-in function abs>, expected a record with init_state and"),
    "partition": (lambda: partition({"slow": SGD}, {}), "partition: got the class SGD, expected an instance"),
    "partition torch": (lambda: partition({"slow": torch_adamw}, {}), "partition: got a stateful AdamW"),
    "freeze": (lambda: freeze(torch_adamw, "a"), "freeze: got a stateful AdamW"),
    "ema": (lambda: ema(AdamW), "ema: got the class AdamW, expected an instance; write AdamW(…)"),
    "ema of a transform": (
        lambda: ema(c),
        "ema: got ClipNorm(max_norm=1.0), expected a record with init_state and upd",
    ),
    "freeze of a chain of transforms": (lambda: freeze(chain(c), "a"), "expected a record with init_state and update"),
    "partition of a transform": (lambda: partition({"x": v}, {}), "partition: got ClipValue(max_value=0.5), expected"),
    "ema None": (lambda: ema(None), "ema: got None, expected a record with init_state and update"),
}


@pytest.mark.parametrize("kind", MISUSES)
def test_misuse_is_refused_with_the_fix(kind):
    """A wrong order, a class, a stateful optimizer and a stranger are each refused when the whole is made."""
    make, message = MISUSES[kind]
    with pytest.raises(UsageError) as caught:
        make()
    assert message in str(caught.value)
