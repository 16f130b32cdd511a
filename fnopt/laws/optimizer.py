"""Laws of update rules."""

from typing import Any

import torch

from .bits import require, run, show
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
            same = torch.equal(new[name], leaf)
            require(same, f"with lr = 0, update {update} moved {name!r} from {show(leaf)} to {show(new[name])}")
