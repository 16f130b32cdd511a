"""How far an update goes, compared with what it changes: a metric that an optimizer reports through its state."""

from collections.abc import Iterable
from typing import Any, TypedDict

import torch
from torch import Tensor

from ..record import record
from ..tensors import device_of, global_norm
from ..transforms.chain import eval_params, widest
from ..types import Optimizer, Scope, Tensors
from .optimizers import Pure


class RatioState(TypedDict):
    """The optimizer's own state, and the last ratio: a step reports it among its Metrics."""

    optimizer: Any
    metrics: dict[str, Tensor]


@record
class UpdateRatio:
    """The same Optimizer, which reports `update_ratio`: the norm of the change of all params by the norm before it.

    About 1e-3 is usual in a run that goes well; much more is a learning rate that is too large. It waits for nothing.

    >>> from fnopt import SGD
    >>> optimizer, params = UpdateRatio(SGD(0.1)), {"w": torch.tensor([3.0, 4.0])}
    >>> params, state = optimizer.update({"w": torch.tensor([0.0, 5.0])}, optimizer.init_state(params), params)
    >>> state["metrics"]
    {'update_ratio': tensor(0.1000)}
    """

    optimizer: Optimizer[Any]

    @property
    def scope(self) -> Scope:
        """That of the optimizer inside, and at least all leaves together."""
        return "leaf" if widest((self.optimizer,)) == "leaf" else "global"

    def init_state(self, params: Tensors) -> RatioState:
        """No update yet."""
        zero = torch.zeros((), dtype=torch.float32, device=device_of(params))
        return {"optimizer": self.optimizer.init_state(params), "metrics": {"update_ratio": zero}}

    def update(self, grads: Tensors, state: RatioState, params: Tensors) -> tuple[dict[str, Tensor], RatioState]:
        """One update of the optimizer inside, and how far it went; 0 for params that are all 0."""
        new, inner = self.optimizer.update(grads, state["optimizer"], params)
        before, change = global_norm(params), global_norm({name: new[name] - leaf for name, leaf in params.items()})
        ratio = torch.where(before > 0, change / torch.where(before > 0, before, 1.0), 0.0)
        return new, {"optimizer": inner, "metrics": {"update_ratio": ratio.to(device_of(params), torch.float32)}}

    def eval_params(self, state: RatioState, params: Tensors) -> dict[str, Tensor]:
        """Those of the optimizer inside."""
        return eval_params(self.optimizer, state["optimizer"], params)

    def inner(self, names: Iterable[str]) -> list[tuple[str, Optimizer[Any], list[str]]]:
        """The optimizer inside, which owns all parameters."""
        return [("", self.optimizer, list(names))]


def observed(pure: Pure) -> Pure:
    """The optimizer, which reports its `update_ratio`, with what it remembers already."""
    known = None if pure.opt_state is None else {"optimizer": pure.opt_state}
    return Pure(UpdateRatio(pure.optimizer), known)
