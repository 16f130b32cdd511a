"""`ensemble`: a step of many members at once, each with its own params, and with its own numbers where they differ."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, Literal, TypeVar

import attrs
import torch
from torch import Tensor, nn

from ._torch import tree_flatten, tree_leaves, tree_unflatten
from .errors import HyperparameterError, StructureError, UsageError
from .record import count, evolve, record
from .state import TrainState, buffers_of, params_of
from .step import StepFn
from .tensors import tensor_map
from .types import Metrics, Tensors

B = TypeVar("B")
T = TypeVar("T")


def _which(_: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if value not in ("shared", "own"):
        raise HyperparameterError(f"ensemble: {attribute.name} must be 'shared' or 'own', got {value!r}")


@record
class Ensemble(Generic[B]):
    """What `ensemble` makes: a StepFn of states whose every tensor has the members as its first dimension."""

    inner: StepFn[B]
    size: int = attrs.field(validator=count)
    batch: Literal["shared", "own"] = attrs.field(default="shared", validator=_which)

    def __attrs_post_init__(self) -> None:
        for leaf in tree_leaves(self.inner):
            if isinstance(leaf, Tensor) and leaf.ndim and list(leaf.shape) != [self.size]:
                raise StructureError(
                    f"ensemble: a number of the step has shape {list(leaf.shape)}, expected [] (shared by all members) "
                    f"or [{self.size}] (one for each)"
                )

    def init_state(self, model: nn.Module | Tensors | Sequence[nn.Module | Tensors], seed: int = 0) -> TrainState:
        """All members at their beginning: copies of one model, or one for each in a list."""
        members: list[Any] = list(model) if isinstance(model, list | tuple) else [model] * self.size
        if len(members) != self.size:
            raise StructureError(f"ensemble: init_state got {len(members)} models, expected {self.size} or one")
        params, buffers = (_stacked([take(member) for member in members]) for take in (_params, _buffers))

        def begin(step: StepFn[B], params: Tensors) -> TrainState:
            return step.init_state(params, seed)

        # what no member's numbers reach is the same tensor for all: each gets a copy of its own
        state = tensor_map(torch.clone, self._each(begin)(params))
        return evolve(state, buffers=buffers)

    def step(self, state: TrainState, batch: B) -> tuple[TrainState, Metrics]:
        """One update of every member; metrics have shape [size]. Members are skipped one by one."""

        def one(step: StepFn[B], state: TrainState, batch: B) -> tuple[TrainState, Metrics]:
            return step.step(state, batch)

        return self.members(one, state, batch)

    def members(self, function: Callable[[StepFn[B], TrainState, B], T], state: TrainState, batch: B) -> T:
        """`function(step, state, batch)` of every member at once; tensors in the result have shape [size, …]."""
        if self.batch == "own":
            self._check_own(batch)
        return self._each(function, None if self.batch == "shared" else 0)(state, batch)

    def eval_params(self, state: TrainState) -> dict[str, Tensor]:
        """The weights to evaluate, of all members."""

        def one(step: StepFn[B], state: TrainState) -> dict[str, Tensor]:
            return step.eval_params(state)

        return self._each(one)(state)

    def _each(self, function: Callable[..., Any], *more: int | None) -> Callable[..., Any]:
        """The function of (step, stacked tensors, …) for all members at once; `more` are dims of what follows."""
        numbers, structure = tree_flatten(self.inner)
        dims = [0 if isinstance(leaf, Tensor) and leaf.ndim else None for leaf in numbers]

        def call(numbers: list[Any], *inputs: Any) -> Any:
            return function(tree_unflatten(numbers, structure), *inputs)

        return partial(torch.vmap(call, in_dims=(dims, 0, *more), randomness="different"), numbers)

    def _check_own(self, batch: Any) -> None:
        for leaf in tree_leaves(batch):
            if not isinstance(leaf, Tensor) or not leaf.ndim or len(leaf) != self.size:
                got = f"shape {list(leaf.shape)}" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"
                raise StructureError(
                    f"ensemble: batch='own' wants tensors whose first dimension is the {self.size} members, got {got}; "
                    "for one batch for all write batch='shared'"
                )


def ensemble(step: StepFn[B], size: int, batch: Literal["shared", "own"] = "shared") -> Ensemble[B]:
    r"""The step of `size` models as one program: what takes a loop over runs elsewhere.

    A state has every tensor with the members as first dimension (`stack`, `unstack`). A number of the step that is a
    tensor of shape [size] is one for each member; floats and 0-d tensors are shared, so a sweep is
    `AdamW(lr=torch.logspace(-4, -2, 32))`. Each member has its loss scale, its clocks and its skips: one that overflows
    leaves the others to the bit. All get one batch, or with `batch="own"` each its own, stacked. Members draw different
    random numbers, as a function of (seed, position). For speed: `compiled(ensemble(step, size))`.

    >>> from fnopt import SGD, make_step, value_and_grad
    >>> grad_fn = value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x)))
    >>> members = ensemble(make_step(grad_fn, SGD(lr=torch.tensor([0.1, 0.5]))), size=2)
    >>> state, metrics = members.step(members.init_state({"w": torch.ones(())}), torch.tensor([1.0, 3.0]))
    >>> state.params["w"], metrics["lr"]
    (tensor([0.8000, 0.0000]), tensor([0.1000, 0.5000]))

    Raises UsageError for a compiled step or none, StructureError for numbers, models or batches of another size.
    """
    if not (hasattr(step, "step") and hasattr(step, "init_state")):
        raise UsageError(f"ensemble: got {step!r}, expected a step; make one with make_step(grad_fn, optimizer)")
    if hasattr(step, "last_state"):
        raise UsageError("ensemble: this step is compiled; the order is compiled(ensemble(step, size))")
    return Ensemble(step, size, batch)


def stack(states: Sequence[TrainState]) -> TrainState:
    """The states of single runs, of one structure and at one position, as the members of an ensemble.

    The seed is that of the first: members draw apart all the same.

    >>> state = stack([TrainState.of({"w": torch.zeros(2)}), TrainState.of({"w": torch.ones(2)})])
    >>> state.params["w"].shape
    torch.Size([2, 2])

    Raises StructureError where structures or positions differ.
    """
    if not states:
        raise StructureError("stack: got no states, expected at least one")
    flat, structures = zip(*(tree_flatten(evolve(state, seed=states[0].seed)) for state in states), strict=True)
    forms = [[(leaf.shape, leaf.dtype) for leaf in leaves] for leaves in flat]
    odd = [place for place, other in enumerate(structures) if other != structures[0] or forms[place] != forms[0]]
    if odd:
        raise StructureError(
            f"stack: states {odd} are not like state 0, expected the same names, shapes, dtypes and position in all"
        )
    return tree_unflatten([torch.stack(leaves) for leaves in zip(*flat, strict=True)], structures[0])


def unstack(state: TrainState) -> list[TrainState]:
    """The members of an ensemble as states of single runs; each owns its memory.

    >>> [float(member.params["w"]) for member in unstack(stack([TrainState.of({"w": torch.tensor(3.0)})]))]
    [3.0]

    Raises StructureError for the state of a single run.
    """
    if not state.updates.ndim:
        raise StructureError("unstack: this state is of a single run, expected one of an ensemble")
    return [tensor_map(partial(_member, place=place), state) for place in range(len(state.updates))]


def _member(leaf: Tensor, place: int) -> Tensor:
    return leaf[place].clone()


def _params(model: nn.Module | Tensors) -> dict[str, Tensor]:
    return params_of(model) if isinstance(model, nn.Module) else {name: leaf.detach() for name, leaf in model.items()}


def _buffers(model: nn.Module | Tensors) -> dict[str, Tensor]:
    return buffers_of(model) if isinstance(model, nn.Module) else {}


def _stacked(members: Sequence[Tensors]) -> dict[str, Tensor]:
    first = members[0]
    for place, member in enumerate(members):
        if [(n, leaf.shape, leaf.dtype) for n, leaf in member.items()] != [
            (n, leaf.shape, leaf.dtype) for n, leaf in first.items()
        ]:
            raise StructureError(
                f"ensemble: model {place} is not like model 0: expected the same names, shapes and dtypes"
            )
    return {name: torch.stack([member[name] for member in members]) for name in first}
