"""`accumulate`: the gradient of a list of micro-batches is the sum of theirs."""

from typing import Any, TypeVar, cast

import torch

from .errors import EmptyDataError, LossError, UsageError
from .grads import Graded, GradFn
from .randomness import mix
from .record import evolve, record
from .state import TrainState
from .tensors import all_finite, select, tensor_map, tmap

B = TypeVar("B")


@record
class Accumulate:
    """What `accumulate` makes: a GradFn of a non-empty list of what its own GradFn takes."""

    grad_fn: GradFn[Any]
    drop_nonfinite: bool = False

    def __call__(self, state: TrainState, batches: list[Any], /) -> Graded:
        total = None
        for seed, batch in self.micro_batches(state.seed, batches):
            graded = self.one(evolve(state, seed=seed), batch)
            state = evolve(state, buffers=graded.buffers)
            total = graded if total is None else add(total, graded)
        return cast(Graded, total)

    def micro_batches(self, seed: int, batches: list[Any]) -> list[tuple[int, Any]]:
        """Each micro-batch with the seed that it draws its randomness from."""
        if not isinstance(cast(object, batches), list):
            raise UsageError(
                f"accumulate: got a {type(batches).__name__}, expected a list of micro-batches (a tuple is one Batch); "
                "write [batch], give Batches micro_batches=, or leave accumulate out"
            )
        if not batches:
            raise EmptyDataError("accumulate: got an empty list, expected at least one micro-batch")
        # the first draws what it would draw alone; the depth keeps nested lists apart
        depth = _depth(batches)
        return [(mix(seed, place, depth) if place else seed, batch) for place, batch in enumerate(batches)]

    def one(self, state: TrainState, batch: Any) -> Graded:
        """The gradient of one micro-batch."""
        graded = self.grad_fn(state, batch)
        if not self.drop_nonfinite:
            return graded
        good = all_finite(graded.grads) & torch.isfinite(graded.loss)
        nothing = evolve(tensor_map(torch.zeros_like, graded), buffers=state.buffers, dropped=graded.dropped + 1)
        return select(good, graded, nothing)


def _depth(batches: Any) -> int:
    return 1 + _depth(cast(Any, batches)[0]) if isinstance(batches, list) and batches else 0


def accumulate(grad_fn: GradFn[B], *, drop_nonfinite: bool = False) -> GradFn[list[B]]:
    """The GradFn of a list of micro-batches: sums add, weights add, and the step divides once.

    So any partition of a batch has the gradient of the whole, also into unequal parts; a mean of means has not. Buffers
    pass from each micro-batch to the next. Micro-batch i draws its randomness from (seed, position, i).
    `drop_nonfinite=True` leaves out a micro-batch whose loss or gradient is not finite, its weight with it.

    >>> from fnopt import value_and_grad
    >>> grad_fn = accumulate(value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x))))
    >>> graded = grad_fn(TrainState.of({"w": torch.ones(())}), [torch.tensor([1.0, 3.0]), torch.tensor([5.0])])
    >>> graded.grads, graded.weight
    ({'w': tensor(9.)}, tensor(3.))

    Raises UsageError for anything but a list, EmptyDataError for an empty one.
    """
    return Accumulate(grad_fn, drop_nonfinite)


def add(a: Graded, b: Graded) -> Graded:
    """The sum of two Gradeds, of which `b` came later: its buffers are the newer ones."""
    check_aux(a, b)
    return Graded(
        grads=tmap(torch.add, a.grads, b.grads),
        loss=a.loss + b.loss,
        weight=a.weight + b.weight,
        buffers=b.buffers,
        aux=tmap(torch.add, a.aux, b.aux),
        dropped=a.dropped + b.dropped,
    )


def check_aux(a: Graded, b: Graded) -> None:
    """Micro-batches report sums under the same names."""
    if a.aux.keys() != b.aux.keys():
        raise LossError(
            f"loss: aux has the names {sorted(a.aux)} and then {sorted(b.aux)}, expected the same every time"
        )
