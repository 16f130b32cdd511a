"""Per-example clipping as a GradFn -> GradFn: the bound that differential privacy needs."""

from typing import Any, TypeVar, cast

import attrs
import torch
from torch import Tensor

from ._torch import tree_leaves, tree_map
from .errors import EmptyDataError, HyperparameterError, UsageError
from .grads import Graded, GradFn
from .randomness import mix
from .record import evolve, hyper, positive, record
from .state import TrainState
from .tensors import at, global_norm, tensor_map
from .transforms.clip import coefficient, scaled
from .types import Hyper

B = TypeVar("B")


def _chunk(_: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise HyperparameterError(f"per_example_clip: {attribute.name} must be None or an int >= 1, got {value!r}")


@record
class PerExampleClip:
    """What `per_example_clip` makes: a GradFn that sums the clipped gradients of single examples."""

    grad_fn: GradFn[Any]
    max_norm: Hyper = hyper(check=positive)
    chunk_size: int | None = attrs.field(default=None, validator=_chunk)

    def __call__(self, state: TrainState, batch: Any, /) -> Graded:
        count = _count(batch)
        size = self.chunk_size or count
        total = None
        for place, start in enumerate(range(0, count, size)):
            # the first draws what it would draw alone; others must not draw the same again
            seed = mix(state.seed, place, 0) if place else state.seed
            part = self._clipped(evolve(state, seed=seed), _rows(batch, slice(start, start + size)))
            total = part if total is None else tree_map(torch.add, total, part)
        return evolve(cast(Graded, total), buffers=state.buffers)

    def _clipped(self, state: TrainState, chunk: Any) -> Graded:
        (max_norm,) = at(state.updates, self.max_norm)

        def one(example: Any) -> Graded:
            graded = self.grad_fn(state, tensor_map(lambda leaf: leaf.unsqueeze(0), example))
            coef = coefficient(global_norm(graded.grads), max_norm)
            return evolve(graded, grads={name: scaled(leaf, coef) for name, leaf in graded.grads.items()}, buffers={})

        each = torch.vmap(one, randomness="different")(chunk)
        return tensor_map(lambda leaf: leaf.sum(0), each)


def _count(batch: Any) -> int:
    """The number of examples in a Batch."""
    if isinstance(batch, list):
        raise UsageError(
            "per_example_clip: got a list, expected one Batch; for micro-batches write "
            "accumulate(per_example_clip(grad_fn, …))"
        )
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)}
    count = sizes.pop() if len(sizes) == 1 else None
    if count is None:
        raise UsageError(
            f"per_example_clip: the tensors of a Batch have shapes {_shapes(batch)}, expected one first dimension in "
            "all, the number of examples"
        )
    if not count:
        raise EmptyDataError("per_example_clip: got a Batch of no examples, expected at least one")
    return count


def _shapes(batch: Any) -> list[list[int]]:
    return [list(leaf.shape) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]


def _rows(batch: Any, rows: slice) -> Any:
    return tensor_map(lambda leaf: leaf[rows], batch)


def per_example_clip(grad_fn: GradFn[B], max_norm: Hyper, *, chunk_size: int | None = None) -> GradFn[B]:
    r"""The sum of the gradients of single examples, each scaled to norm at most `max_norm` first.

        g = sum_i g_i min(1, max_norm / ||g_i||)        g_i: the gradient of the loss sum of example i alone

    All examples go through the model at once, under vmap; `chunk_size` at a time, where memory is short (it holds one
    gradient per example of a chunk). Examples draw their randomness apart. The weight stays the true one. Use it inside
    `accumulate`. A module whose buffers change (BatchNorm) has no single example: put it in eval mode; buffers stay as
    they were.

    >>> from fnopt import value_and_grad
    >>> grad_fn = per_example_clip(value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x))), max_norm=1.0)
    >>> grad_fn(TrainState.of({"w": torch.ones(())}), torch.tensor([0.5, 30.0])).grads
    {'w': tensor(1.5000)}

    Raises UsageError where the tensors of a batch disagree on the number of examples, EmptyDataError where there is
    none, HyperparameterError unless max_norm > 0. Source: Abadi et al. 2016, Algorithm 1, arXiv:1607.00133.
    """
    return PerExampleClip(grad_fn, max_norm, chunk_size)
