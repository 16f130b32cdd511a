"""`all_reduce`: the gradient of a batch that several processes share is the sum of theirs."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import UsageError
from .grads import Graded, GradFn
from .randomness import mix
from .record import evolve, record
from .state import TrainState

B = TypeVar("B")


@record
class AllReduce:
    """What `all_reduce` makes: a GradFn of this process's share, whose result is that of all shares."""

    grad_fn: GradFn[Any]
    group: Any = None

    def __call__(self, state: TrainState, batch: Any, /) -> Graded:
        return self.exchanged(self.grad_fn(evolve(state, seed=self.seed(state.seed)), batch))

    def seed(self, seed: int) -> int:
        """The seed that this process draws its randomness from; the first one draws what it would draw alone."""
        _check_group()
        rank = dist.get_rank(self.group)
        return mix(seed, rank) if rank else seed

    def exchanged(self, own: Graded) -> Graded:
        """The Graded of all processes, in each of them."""
        few = {"loss": own.loss, "weight": own.weight, "dropped": own.dropped.to(own.loss.dtype)}
        add = partial(cast(Any, dist).all_reduce, group=self.group)
        grads, aux, few = flat([own.grads, own.aux, few], add)
        take = partial(cast(Any, dist).broadcast, group_src=0, group=self.group)
        (buffers,) = flat([own.buffers], take)
        return Graded(grads, few["loss"], few["weight"], buffers, aux, few["dropped"].to(own.dropped.dtype))


def all_reduce(grad_fn: GradFn[B], *, group: Any = None) -> GradFn[B]:
    """The GradFn of a batch that the processes of a torch.distributed group share: sums add, and so do weights.

    Each process gives its own share and gets the same Graded, to the bit, so params that began equal stay so without
    being sent. Unequal shares count by their weight, and an infinity or a nan in one process is one in all: every one
    skips the update. Buffers are those of the first. A process draws its randomness from (seed, position, rank).

    It belongs outside of `accumulate` (one exchange for an update) and inside of `sam`. `group` is a ProcessGroup;
    None: the default one. Each dtype is sent as one flat tensor; what is around it can be compiled.

        data = Batches(dataset, 8, micro_batches=4, world_size=dist.get_world_size(), rank=dist.get_rank())
        step = make_step(all_reduce(accumulate(value_and_grad(model, loss))), AdamW(1e-3))

    Raises UsageError where there is no process group.
    """
    if not callable(cast(object, grad_fn)):
        raise UsageError(f"all_reduce: grad_fn is {grad_fn!r}, expected value_and_grad(model, loss)")
    return AllReduce(grad_fn, group)


def flat(trees: list[dict[str, Tensor]], collective: Callable[[Tensor], Any]) -> list[dict[str, Tensor]]:
    """The dicts after a collective that works in place, on copies: one flat tensor for each dtype and device."""
    places: dict[tuple[torch.dtype, torch.device], list[tuple[int, str]]] = {}
    for index, tree in enumerate(trees):
        for name, leaf in tree.items():
            places.setdefault((leaf.dtype, leaf.device), []).append((index, name))
    after: list[dict[str, Tensor]] = [dict(tree) for tree in trees]
    for found in places.values():
        leaves = [trees[index][name] for index, name in found]
        whole = torch.cat([leaf.reshape(-1) for leaf in leaves])
        collective(whole)
        parts = torch.split(whole, [leaf.numel() for leaf in leaves])
        for (index, name), part, leaf in zip(found, parts, leaves, strict=True):
            after[index][name] = part.view(leaf.shape)
    return after


def _check_group() -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise UsageError(
            "all_reduce: torch.distributed has no process group, expected one; call "
            "torch.distributed.init_process_group() in each process, or leave all_reduce out"
        )
