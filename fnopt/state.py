"""TrainState: everything that a training run is made of, as one value."""

from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, cast

import attrs
import torch
from torch import Tensor, nn

from ._torch import register_pytree
from .errors import DonatedStateError, StructureError
from .record import record
from .tensors import check_params, first_step, tensor_map
from .types import Tensors

T = TypeVar("T")
_LENDER = "_lender"  # of a state that `compiled` returned: where its fields come from, when somebody asks


class Lender(Protocol):
    """What shows the fields of a state that lies packed in other tensors."""

    def show(self, field: str, /) -> Any: ...


@record
class TrainState:
    """One owner of the truth: what is not in it, a training loop may not depend on.

    params       the weights that are trained, by name; plain tensors that nobody else holds
    buffers      what else the module needs: running statistics, constants, parameters that do not require grad
    opt_state    what the optimizer remembers
    loss_scale   what the loss scale remembers: scale, and how many updates were skipped
    updates      int64, 0-d: updates applied; stands still on a skipped one, and is the clock of schedules
    position     int: step calls so far, also skipped ones; data order and randomness are functions of (seed, position)
    seed         int: the seed of this run
    extra        the user's slot; saved and resumed

    >>> state = TrainState.of({"w": torch.zeros(2)}, seed=7)
    >>> state.position, state.seed, int(state.updates)
    (0, 7, 0)
    """

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    opt_state: Any
    loss_scale: dict[str, Tensor]
    updates: Tensor
    position: int
    seed: int
    extra: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        params: Tensors,
        *,
        buffers: Tensors | None = None,
        opt_state: Any = None,
        loss_scale: Tensors | None = None,
        seed: int = 0,
        extra: Tensors | None = None,
    ) -> "TrainState":
        """A state at its beginning, around these params (which are not copied)."""
        check_params("TrainState", params)
        return cls(
            params=dict(params),
            buffers=dict(buffers or {}),
            opt_state={} if opt_state is None else opt_state,
            loss_scale=dict(loss_scale or {}),
            updates=first_step(params),
            position=0,
            seed=seed,
            extra=dict(extra or {}),
        )

    if not TYPE_CHECKING:  # a type checker would take any name for a field

        def __getattr__(self, name: str) -> Any:
            lender = self.__dict__.get(_LENDER)
            if lender is None or name not in _FIELDS:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            return self.__dict__.setdefault(name, lender.show(name))

    def __reduce__(self) -> Any:
        # copies and pickles are plain states: views would take the whole of what they are views of along
        whole = snapshot(self) if _LENDER in self.__dict__ else self
        return TrainState, tuple(getattr(whole, name) for name in _FIELDS)


_FIELDS = tuple(field.name for field in attrs.fields(TrainState))


class _Donated(TrainState):
    """What the class of a state becomes when a compiled step writes the next one into its tensors."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        return _refuse(self)

    def __repr__(self) -> str:
        return "TrainState(donated)"

    def __reduce__(self) -> Any:
        return _refuse(self)


def _refuse(state: object) -> NoReturn:
    raise DonatedStateError(
        "this TrainState was donated: a compiled step wrote the next state into its tensors; go on with the state that "
        "the step returned, keep a copy with fnopt.snapshot(state) before the step, or use compiled(step, donate=False)"
    )


register_pytree(_Donated, _refuse, _refuse)  # a class of its own: unregistered, tree functions would take it for a leaf


def lent(lender: Lender, position: int, seed: int) -> TrainState:
    """A state whose fields are shown by `lender` when somebody asks for them."""
    state = object.__new__(TrainState)
    state.__dict__.update({_LENDER: lender, "position": position, "seed": seed})
    return state


def lender_of(state: TrainState) -> Lender | None:
    """Where the fields of a state come from, if not from itself."""
    return state.__dict__.get(_LENDER)


def donate(state: TrainState) -> None:
    """From now on every use of this very object is a DonatedStateError. One atomic write."""
    object.__setattr__(state, "__class__", _Donated)
    state.__dict__.clear()


def params_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters that require grad, by canonical name; a tied one appears once.

    >>> params_of(nn.Linear(2, 1))["weight"].requires_grad
    False
    """
    return {name: _copy(p) for name, p in model.named_parameters() if p.requires_grad}


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all else that a module holds: its buffers, and its parameters that do not require grad.

    >>> sorted(buffers_of(nn.BatchNorm1d(2)))
    ['num_batches_tracked', 'running_mean', 'running_var']
    """
    frozen = {name: _copy(p) for name, p in model.named_parameters() if not p.requires_grad}
    return {**frozen, **{name: _copy(b) for name, b in model.named_buffers()}}


def load_into(model: nn.Module, state: TrainState) -> None:
    """Write the params and buffers of `state` into the module's own tensors, in place.

    Raises StructureError, before anything is written, if names or shapes differ; it lists all of them.
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values: dict[str, Tensor] = {**state.params, **state.buffers}
    wrong = [f"only in the model: {name}" for name in sorted(own.keys() - values.keys())]
    wrong += [f"only in the state: {name}" for name in sorted(values.keys() - own.keys())]
    wrong += [
        f"{name}: {list(values[name].shape)} in the state, {list(own[name].shape)} in the model"
        for name in sorted(own.keys() & values.keys())
        if own[name].shape != values[name].shape
    ]
    if wrong:
        raise StructureError(f"load_into: this state is not of this {type(model).__name__}: {'; '.join(wrong)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(values[name])


def snapshot(state: TrainState) -> TrainState:
    """A copy of every tensor: a value that nothing can change any more.

    >>> best = snapshot(state := TrainState.of({"w": torch.zeros(2)}))
    >>> best == state, best.params["w"] is state.params["w"]
    (True, False)
    """
    return tensor_map(_copy, state)


def to_device(tree: T, device: torch.device | str) -> T:
    """The same pytree with its tensors on `device`."""
    return _to_device(tree, torch.device(device))


def _to_device(tree: Any, device: torch.device) -> Any:
    """By hand for what batches are mostly made of: a walk through torch's pytrees costs 15 us a step."""
    kind = type(cast(object, tree))
    if kind is Tensor:
        return tree if tree.device == device else tree.to(device, non_blocking=True)
    if kind is tuple or kind is list:
        parts = [_to_device(part, device) for part in tree]
        return parts if kind is list else tuple(parts)
    if kind is dict:
        return {key: _to_device(part, device) for key, part in tree.items()}
    return tensor_map(lambda leaf: leaf.to(device, non_blocking=True), tree)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()
