"""What `compiled` traces: a step, its gradient and the rest of it, as functions of lists of tensors. Private."""

from collections.abc import Callable, Hashable, Iterator
from typing import Any, cast

import attrs
from torch import Tensor

from .._torch import memory_of, tree_flatten, tree_leaves, tree_unflatten
from ..accumulate import Accumulate, check_aux
from ..all_reduce import AllReduce
from ..grads import Graded
from ..precision import Autocast
from ..record import evolve, record
from ..state import TrainState, lent
from ..step import Step
from ..types import Metrics
from .held import Form
from .kind import Kind
from .layout import Layout
from .program import CannotCompileError, Leaves, Result, apart


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


@attrs.frozen(eq=False)
class Shown:
    """A packed state with the user's names: each field is unpacked when somebody asks, as each view costs a trace."""

    layout: Layout
    state: TrainState

    def show(self, field: str) -> Any:
        """One field."""
        tree = getattr(self.state, field)
        node = {"params": self.layout.params, "opt_state": self.layout.state}.get(field)
        return tree if node is None else node.unpack(tree)


@record
class Packed:
    """A step of packed states: gradients at the parameters in their own shapes, the optimizer on buffers."""

    inner: Step[Any]
    layout: Layout

    def step(self, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        """One update."""
        return self.apply(state, self.gradient(self.inner.grad_fn, state, batch))

    def gradient(self, grad_fn: Callable[[TrainState, Any], Graded], state: TrainState, batch: Any) -> Graded:
        """The packed gradient."""
        graded = grad_fn(lent(Shown(self.layout, state), state.position, state.seed), batch)
        return evolve(graded, grads=self.layout.params.pack(graded.grads))

    def apply(self, state: TrainState, graded: Graded) -> tuple[TrainState, Metrics]:
        """What follows the gradient."""
        return evolve(self.inner, optimizer=self.layout.optimizer(self.inner.optimizer)).apply(state, graded)


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
        if isinstance(step, Step):
            step = Packed(cast("Step[Any]", step), self.form.layout)
        elif self.form.stacked:
            step = evolve(step, inner=Packed(step.inner, self.form.layout))
        new, metrics = step.step(self._state(leaves), filled(batch, tensors))
        return self._result(leaves, new, metrics)

    def gradient(self, batch: Any, numbers: list[Any], leaves: Leaves, tensors: Leaves) -> Result:
        """The gradient of one micro-batch; its outputs are those of a packed Graded."""
        step = Packed(self.kind.step(numbers), self.form.layout)
        oracle = cast(Accumulate, oracle_of(split(step.inner.grad_fn)[1]))
        graded = step.gradient(oracle.one, self._state(leaves), filled(batch, tensors))
        outputs, self.names = tree_flatten(graded)
        buffers = tree_leaves(graded.buffers)  # stay themselves where the forward pass did not change them
        kept = {id(leaf) for leaf in buffers}
        taken = [leaf for leaf in numbers if isinstance(leaf, Tensor)] + leaves + tensors
        return Result([], [leaf if id(leaf) in kept else apart([leaf], taken)[0] for leaf in outputs])

    def update(self, graded: Graded, numbers: list[Any], leaves: Leaves) -> Result:
        """What follows the packed gradient; its outputs are metrics."""
        new, metrics = Packed(self.kind.step(numbers), self.form.layout).apply(self._state(leaves), graded)
        return self._result(leaves, new, metrics)

    def _state(self, leaves: Leaves) -> TrainState:
        return self.form.packed(leaves, self.position, self.seed)

    def _result(self, leaves: Leaves, new: TrainState, metrics: Metrics) -> Result:
        if (new.position, new.seed) != (self.position + 1, self.seed):
            raise CannotCompileError("a step changes the position by other than 1, or the seed")
        writes = [(old, leaf) for old, leaf in zip(leaves, self.form.flat(new), strict=True) if old is not leaf]
        self.names = list(metrics)
        return Result(writes, apart(metrics.values(), leaves))


def split(grad_fn: Any) -> tuple[AllReduce | None, Any]:
    """The exchange between processes that a GradFn ends with, which is never traced, and what comes before."""
    return (grad_fn, grad_fn.grad_fn) if type(grad_fn) is AllReduce else (None, grad_fn)


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


def added(total: Graded, more: Graded) -> Graded:
    """The sum, in the memory of `total`, which nobody else has seen."""
    check_aux(total, more)
    mine, structure = tree_flatten(evolve(total, buffers={}))
    taken: set[int] = set()
    for place, leaf in enumerate(mine):
        if memory_of(leaf) in taken:  # two outputs of equal value may be one tensor
            mine[place] = leaf.clone()
        taken.add(memory_of(leaf))
    for leaf, other in zip(mine, tree_leaves(evolve(more, buffers={})), strict=True):
        leaf.add_(other)
    return evolve(tree_unflatten(mine, structure), buffers=more.buffers)
