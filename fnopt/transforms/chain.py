"""`chain`: transforms one after another, and perhaps an Optimizer at the end.

A monoid as values: nested chains flatten and the empty chain is the identity. Each part keeps its state under its
class name (the second of the same name under `Name_2`), so regrouping moves no key of a checkpoint.
"""

from collections.abc import Iterable
from typing import Any, cast, overload

from torch import Tensor

from ..errors import StructureError, UsageError
from ..record import record
from ..types import GradTransform, HasEvalParams, Optimizer, Scope, Tensors


@record
class ChainedTransform:
    """What `chain` makes of transforms alone: a GradTransform."""

    transforms: tuple[GradTransform[Any], ...]

    @property
    def scope(self) -> Scope:
        """The widest scope of the parts."""
        return widest(self.transforms)

    def init_state(self, params: Tensors) -> dict[str, Any]:
        """The states of the parts, by name."""
        return {name: part.init_state(params) for name, part in _named(self.transforms)}

    def transform(
        self, grads: Tensors, state: dict[str, Any], params: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The gradients after all parts, first to last."""
        named = _named(self.transforms)
        _check_names(state, [name for name, _ in named])
        new = dict[str, Any]()
        for name, part in named:
            grads, new[name] = part.transform(grads, state[name], params)
        return dict(grads), new


@record
class ChainedOptimizer:
    """What `chain` makes of transforms and an Optimizer: an Optimizer."""

    transforms: tuple[GradTransform[Any], ...]
    optimizer: Optimizer[Any]

    @property
    def scope(self) -> Scope:
        """The widest scope of the parts."""
        return widest((*self.transforms, self.optimizer))

    def init_state(self, params: Tensors) -> dict[str, Any]:
        """The states of the parts, by name."""
        return {name: part.init_state(params) for name, part in _named((*self.transforms, self.optimizer))}

    def update(
        self, grads: Tensors, state: dict[str, Any], params: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """One update with the transformed gradients."""
        *_, (last, _) = names = _named((*self.transforms, self.optimizer))
        _check_names(state, [name for name, _ in names])
        before = {name: value for name, value in state.items() if name != last}
        grads, new = ChainedTransform(self.transforms).transform(grads, before, params)
        params, new[last] = self.optimizer.update(grads, state[last], params)
        return params, new

    def eval_params(self, state: dict[str, Any], params: Tensors) -> dict[str, Tensor]:
        """The weights that the optimizer at the end evaluates."""
        *_, (last, _) = _named((*self.transforms, self.optimizer))
        return eval_params(self.optimizer, state[last], params)

    def inner(self, names: Iterable[str]) -> list[tuple[str, Optimizer[Any], list[str]]]:
        """The optimizer at the end, which owns all parameters."""
        return [("", self.optimizer, list(names))]


@overload
def chain(*parts: *tuple[*tuple[GradTransform[Any], ...], Optimizer[Any]]) -> ChainedOptimizer: ...
@overload
def chain(*parts: GradTransform[Any]) -> ChainedTransform: ...
def chain(*parts: Any) -> ChainedOptimizer | ChainedTransform:
    """Transforms applied first to last; with an Optimizer at the end an Optimizer, else a GradTransform.

    >>> from fnopt import ClipNorm, ClipValue, SGD
    >>> chain(ClipNorm(1.0), SGD(0.1)).init_state({"w": torch.zeros(2)}).keys()
    dict_keys(['ClipNorm', 'SGD'])
    >>> chain(chain(ClipNorm(1.0)), chain(ClipValue(0.5), SGD(0.1))) == chain(ClipNorm(1.0), ClipValue(0.5), SGD(0.1))
    True

    Raises UsageError if an Optimizer is not the last part, or if a part is neither (a torch.optim one, say).
    """
    flat: list[Any] = []
    for part in parts:
        if isinstance(part, ChainedTransform | ChainedOptimizer):
            flat.extend(part.transforms)
        if isinstance(part, ChainedOptimizer):
            flat.append(part.optimizer)
        elif not isinstance(part, ChainedTransform):
            flat.append(part)
    for place, part in enumerate(flat, start=1):
        check_pure("chain", part, (GradTransform, Optimizer))
        if isinstance(part, Optimizer) and place < len(flat):
            name = type(cast(object, part)).__name__
            raise UsageError(
                f"chain: {name} is an Optimizer and stands at place {place} of {len(flat)}, expected last; to act "
                "on its direction before it is applied use chain(ScaleByAdam(), …, SGD(lr))"
            )
    if flat and isinstance(flat[-1], Optimizer):
        return ChainedOptimizer(tuple(flat[:-1]), cast(Optimizer[Any], flat[-1]))
    return ChainedTransform(tuple(flat))


def check_pure(owner: str, part: Any, kinds: Any) -> None:
    """Parts are records (instances) of one of `kinds`; the usual mistakes get the fix."""
    if isinstance(part, type):
        raise UsageError(f"{owner}: got the class {part.__name__}, expected an instance; write {part.__name__}(…)")
    if hasattr(part, "param_groups"):
        name = type(part).__name__
        raise UsageError(
            f"{owner}: got a stateful {name} that holds its own params, expected a pure Optimizer; "
            f"write fnopt.{name}(lr=…)"
        )
    if not isinstance(part, kinds):
        methods = "update" if kinds is Optimizer else "transform, or at the end update"
        raise UsageError(f"{owner}: got {part!r}, expected a record with init_state and {methods}")


def eval_params(optimizer: Optimizer[Any], state: Any, params: Tensors) -> dict[str, Tensor]:
    """The weights to evaluate: the average of an `ema`, say; `params` themselves where an optimizer has no others."""
    if isinstance(optimizer, HasEvalParams):
        return cast(HasEvalParams[Any], optimizer).eval_params(state, params)
    return dict(params)


def widest(parts: Iterable[Any]) -> Scope:
    """The widest scope among parts; of one that does not say, "leaf"."""
    scopes: list[Scope] = [getattr(part, "scope", "leaf") for part in parts]
    return "leaf" if "leaf" in scopes else "global" if "global" in scopes else "element"


def _named(parts: Iterable[Any]) -> list[tuple[str, Any]]:
    seen: dict[str, int] = {}
    named: list[tuple[str, Any]] = []
    for part in parts:
        name = type(part).__name__
        seen[name] = seen.get(name, 0) + 1
        named.append((name if seen[name] == 1 else f"{name}_{seen[name]}", part))
    return named


def _check_names(state: dict[str, Any], names: list[str]) -> None:
    if list(state) != names:
        raise StructureError(
            f"chain: the state has parts {list(state)}, expected {names}; call init_state of this chain"
        )
