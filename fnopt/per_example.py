"""Per-example clipping as a GradFn -> GradFn: the bound that differential privacy needs."""

from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

from ._torch import tree_leaves
from .errors import HyperparameterError, UsageError
from .grads import Graded, GradFn
from .record import evolve, hyper, positive, record
from .state import TrainState
from .tensors import as_tensor, at, global_norm, tensor_map
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
        sizes = {leaf.shape[0] if leaf.ndim else None for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)}
        if len(sizes) != 1 or None in sizes:
            raise UsageError(
                f"per_example_clip: the tensors of a Batch have first dimensions {sizes}, expected the same one, the "
                "number of examples, in all"
            )
        (max_norm,) = at(state.updates, self.max_norm)

        def one(example: Any) -> Graded:
            graded = self.grad_fn(state, tensor_map(lambda leaf: leaf.unsqueeze(0), example))
            norm = global_norm(graded.grads)
            bound = as_tensor(max_norm, norm)
            coef = bound / torch.maximum(norm, bound)
            return evolve(graded, grads={name: leaf * coef for name, leaf in graded.grads.items()}, buffers={})

        each = torch.vmap(one, randomness="different", chunk_size=self.chunk_size)(batch)
        return evolve(tensor_map(lambda leaf: leaf.sum(0), each), buffers=state.buffers)


def per_example_clip(grad_fn: GradFn[B], max_norm: Hyper, *, chunk_size: int | None = None) -> GradFn[B]:
    r"""The sum of the gradients of single examples, each scaled to norm at most `max_norm` first.

        g = sum_i g_i min(1, max_norm / ||g_i||)        g_i: the gradient of the loss sum of example i alone

    All examples go through the model at once, under vmap; `chunk_size` at a time, where memory is short. The weight
    stays the true one. Use it inside `accumulate`. A module whose buffers change (BatchNorm) has no single example: put
    it in eval mode; buffers stay as they were.

    >>> from fnopt import value_and_grad
    >>> grad_fn = per_example_clip(value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x))), max_norm=1.0)
    >>> grad_fn(TrainState.of({"w": torch.ones(())}), torch.tensor([0.5, 30.0])).grads
    {'w': tensor(1.5000)}

    Raises UsageError where the tensors of a batch disagree on the number of examples, HyperparameterError unless
    max_norm > 0. Source: Abadi et al. 2016, Algorithm 1, arXiv:1607.00133.
    """
    return PerExampleClip(grad_fn, max_norm, chunk_size)
