"""What `compiled` traces: a step, its gradient and the rest of it, as functions of lists of tensors. Private."""

from collections.abc import Hashable, Iterator
from typing import Any, cast

import attrs
from torch import Tensor

from ._torch import tree_flatten, tree_leaves, tree_unflatten
from .accumulate import Accumulate
from .grads import Graded
from .held import Form
from .kind import Kind
from .precision import Autocast
from .program import CannotCompileError, Leaves, Result, apart
from .record import evolve
from .state import TrainState
from .step import Step
from .types import Metrics


def signed(batch: Any) -> tuple[Leaves, Hashable]:
    """The tensors of a batch, and all else that a trace sees of it."""
    leaves: Leaves = []
    return leaves, _sign(batch, leaves)


def _sign(value: Any, leaves: Leaves) -> Hashable:
    kind = cast(Any, type(value))
    if isinstance(value, Tensor):
        leaves.append(value.detach() if value.requires_grad else value)
        return (kind, value.shape, value.stride(), value.dtype, value.device)
    if kind in (tuple, list):
        return (kind, *[_sign(item, leaves) for item in value])
    if kind is dict:
        return (kind, *[(key, _sign(item, leaves)) for key, item in value.items()])
    children, structure = tree_flatten(value)
    if len(children) == 1 and children[0] is value:
        if kind.__hash__ is None:
            raise CannotCompileError(f"a batch holds a {kind.__name__}, which cannot be told from another")
        return (kind, value)
    return (kind, repr(structure), *[_sign(child, leaves) for child in children])


def filled(batch: Any, tensors: Leaves) -> Any:
    """The batch with these tensors in the place of its own."""
    leaves, structure = tree_flatten(batch)
    given = iter(tensors)
    return tree_unflatten([next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)


@attrs.define
class Body:
    """A function of numbers, the leaves of a state, and more tensors; all that a trace takes for constant is a field.

    names   of the outputs, after a call: the keys of metrics, or the structure of a packed Graded
    """

    kind: Kind
    form: Form
    position: int
    seed: int
    names: Any = None

    def whole(self, batch: Any, numbers: list[Any], leaves: Leaves, tensors: Leaves) -> Result:
        """One step; its outputs are metrics."""
        step = self.kind.step(numbers)
        named = self.form.named(leaves, self.position, self.seed)
        if isinstance(step, Step):
            split = cast("Step[Any]", step)
            return self._applied(split, leaves, self._packed(split.grad_fn(named, filled(batch, tensors))))
        new, metrics = step.step(named, filled(batch, tensors))
        return self._result(leaves, new, metrics)

    def gradient(self, batch: Any, numbers: list[Any], leaves: Leaves, tensors: Leaves) -> Result:
        """The gradient of one micro-batch; its outputs are those of a packed Graded."""
        oracle = cast(Accumulate, oracle_of(self.kind.step(numbers).grad_fn))
        graded = oracle.one(self.form.named(leaves, self.position, self.seed), filled(batch, tensors))
        outputs, self.names = tree_flatten(self._packed(graded))
        buffers = tree_leaves(graded.buffers)  # stay themselves where the forward pass did not change them
        kept = {id(leaf) for leaf in buffers}
        taken = [leaf for leaf in numbers if isinstance(leaf, Tensor)] + leaves + tensors
        return Result([], [leaf if id(leaf) in kept else apart([leaf], taken)[0] for leaf in outputs])

    def update(self, graded: Graded, numbers: list[Any], leaves: Leaves) -> Result:
        """What follows the packed gradient; its outputs are metrics."""
        return self._applied(self.kind.step(numbers), leaves, graded)

    def _packed(self, graded: Graded) -> Graded:
        return evolve(graded, grads=self.form.layout.params.pack(graded.grads))

    def _applied(self, step: "Step[Any]", leaves: Leaves, graded: Graded) -> Result:
        rule = evolve(step, optimizer=self.form.layout.optimizer(step.optimizer))
        new, metrics = rule.apply(self.form.packed(leaves, self.position, self.seed), graded)
        return self._result(leaves, new, metrics)

    def _result(self, leaves: Leaves, new: TrainState, metrics: Metrics) -> Result:
        if (new.position, new.seed) != (self.position + 1, self.seed):
            raise CannotCompileError("a step changes the position by other than 1, or the seed")
        writes = [(old, leaf) for old, leaf in zip(leaves, self.form.flat(new), strict=True) if old is not leaf]
        self.names = list(metrics)
        return Result(writes, apart(metrics.values(), leaves))


def oracle_of(grad_fn: Any) -> Accumulate | None:
    """The innermost `accumulate` of a GradFn that may be folded, micro-batch by micro-batch; None if there is none."""
    if type(grad_fn) is Autocast and (inner := oracle_of(grad_fn.grad_fn)) is not None:
        return evolve(inner, grad_fn=evolve(grad_fn, grad_fn=inner.grad_fn))  # casts the same, inside as outside
    if type(grad_fn) is not Accumulate:
        return None
    nested = oracle_of(grad_fn.grad_fn)
    return grad_fn if nested is None or grad_fn.drop_nonfinite else nested


def micro_batches(grad_fn: Any, seed: int, batches: Any) -> Iterator[tuple[int, Any]]:
    """What `oracle_of` takes, one after another, each with its seed."""
    if type(grad_fn) is Autocast:
        yield from micro_batches(grad_fn.grad_fn, seed, batches)
    else:
        nested = oracle_of(grad_fn.grad_fn) is not None and not grad_fn.drop_nonfinite
        for own, batch in grad_fn.micro_batches(seed, batches):
            if nested:
                yield from micro_batches(grad_fn.grad_fn, own, batch)
            else:
                yield own, batch
