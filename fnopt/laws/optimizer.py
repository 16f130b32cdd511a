"""Laws of update rules."""

from typing import Any

import torch

from .bits import require, run
from .case import Case
from .law import has_field, law, with_field


@law("optimizer", values="tame", where=[has_field("lr")])
def law_zero_lr_moves_nothing(thing: Any, case: Case) -> None:
    """With lr = 0, its own and that of its parts, no parameter moves: decay is multiplied by lr too.

    Values are the same; a -0.0 may become 0.0.
    """
    params, grads = case.fresh()
    for update, (new, _) in enumerate(run(with_field(thing, "lr", 0.0), params, grads)):
        for name, leaf in params.items():
            message = ("with lr = 0, update {} moved {} from {} to {}", update, name, leaf, new[name])
            require(torch.equal(new[name], leaf), *message)
