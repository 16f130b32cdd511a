"""Several optimizers as one: `partition` by label, and `freeze`."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from ..errors import StructureError
from ..record import record
from ..tensors import check_grads, check_params
from ..transforms.chain import check_pure, eval_params, widest
from ..types import Optimizer, Scope, Tensors


@record
class Partition:
    """What `partition` makes: one Optimizer whose parts each own the parameters of one label."""

    optimizers: dict[str, Optimizer[Any]]
    labels: dict[str, str]

    @property
    def scope(self) -> Scope:
        """The widest scope of the parts."""
        return widest(self.optimizers.values())

    def init_state(self, params: Tensors) -> dict[str, Any]:
        """The states of the parts, by label."""
        check_params("partition", params)
        self.check_names(params)
        return {tag: part.init_state(self._of(tag, params)) for tag, part in self.optimizers.items()}

    def update(
        self, grads: Tensors, state: dict[str, Any], params: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """One update of every part."""
        self.check_names(params)
        check_grads("partition", grads, params)
        new, states = dict[str, Tensor](), dict[str, Any]()
        for tag, part in self.optimizers.items():
            updated, states[tag] = part.update(self._of(tag, grads), state[tag], self._of(tag, params))
            new.update(updated)
        return {name: new[name] for name in params}, states

    def eval_params(self, state: dict[str, Any], params: Tensors) -> dict[str, Tensor]:
        """The weights that each part evaluates."""
        new = dict[str, Tensor]()
        for tag, part in self.optimizers.items():
            new.update(eval_params(part, state[tag], self._of(tag, params)))
        return {name: new[name] for name in params}

    def inner(self, names: Iterable[str]) -> list[tuple[str, Optimizer[Any], list[str]]]:
        """Each part under its label, with the parameters it owns."""
        listed = list(names)
        return [
            (tag, part, [name for name in listed if self.labels.get(name) == tag])
            for tag, part in self.optimizers.items()
        ]

    def _of(self, tag: str, tensors: Tensors) -> dict[str, Tensor]:
        return {name: leaf for name, leaf in tensors.items() if self.labels[name] == tag}

    def check_names(self, names: Iterable[str]) -> None:
        """Raise StructureError unless these are the names that have labels."""
        given = set(names)
        if given != self.labels.keys():
            missing, extra = sorted(given - self.labels.keys()), sorted(self.labels.keys() - given)
            raise StructureError(
                f"partition: params and labels have different names: without a label {missing[:5]}, labels without a "
                f"parameter {extra[:5]}; make the labels with fnopt.label(model, rules)"
            )


def partition(optimizers: Mapping[str, Optimizer[Any]], labels: Mapping[str, str]) -> Partition:
    """One Optimizer with one state, in which `optimizers[label]` updates the parameters of that label.

    A transform inside a part sees the gradients of that part only; to clip over all, put it in front:
    `chain(ClipNorm(1.0), partition(…))`.

    >>> from fnopt import SGD, evolve
    >>> optimizer = partition({"slow": SGD(0.1), "fast": SGD(1.0)}, {"a": "slow", "b": "fast"})
    >>> ones = {"a": torch.ones(1), "b": torch.ones(1)}
    >>> optimizer.update(ones, optimizer.init_state(ones), ones)[0]
    {'a': tensor([0.9000]), 'b': tensor([0.])}

    Raises StructureError for a label without an optimizer, UsageError for a part that is not a pure Optimizer.
    """
    for part in optimizers.values():
        check_pure("partition", part, Optimizer)
    unknown = sorted(set(labels.values()) - optimizers.keys())
    if unknown:
        raise StructureError(f"partition: no optimizer for the labels {unknown}; there is one for {sorted(optimizers)}")
    return Partition(dict(optimizers), dict(labels))


@record
class Freeze:
    """What `freeze` makes: an Optimizer that never sees the parameters whose names match."""

    optimizer: Optimizer[Any]
    patterns: tuple[str, ...]

    @property
    def scope(self) -> Scope:
        """That of the optimizer inside."""
        return widest((self.optimizer,))

    def init_state(self, params: Tensors) -> Any:
        """The state of the optimizer inside; frozen parameters have none."""
        check_params("freeze", params)
        self.check_names(params)
        return self.optimizer.init_state(self._live(params))

    def update(self, grads: Tensors, state: Any, params: Tensors) -> tuple[dict[str, Tensor], Any]:
        """One update of the parameters that are not frozen."""
        check_grads("freeze", grads, params)
        new, state = self.optimizer.update(self._live(grads), state, self._live(params))
        return {name: new.get(name, leaf) for name, leaf in params.items()}, state

    def eval_params(self, state: Any, params: Tensors) -> dict[str, Tensor]:
        """The weights that the optimizer inside evaluates, and the frozen ones."""
        new = eval_params(self.optimizer, state, self._live(params))
        return {name: new.get(name, leaf) for name, leaf in params.items()}

    def inner(self, names: Iterable[str]) -> list[tuple[str, Optimizer[Any], list[str]]]:
        """The optimizer inside, with the parameters that are not frozen."""
        return [("", self.optimizer, [name for name in names if not self._frozen(name)])]

    def check_names(self, names: Iterable[str]) -> None:
        """Raise StructureError for a glob that matches none of these."""
        given = list(names)
        idle = [pattern for pattern in self.patterns if not any(fnmatchcase(name, pattern) for name in given)]
        if idle:
            raise StructureError(f"freeze: {idle} match no parameter; names are {given[:5]}…")

    def _frozen(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)

    def _live(self, tensors: Tensors) -> dict[str, Tensor]:
        return {name: leaf for name, leaf in tensors.items() if not self._frozen(name)}


def freeze(optimizer: Optimizer[Any], *patterns: str) -> Freeze:
    """Keep the parameters whose names match one of these globs as they are: no update, no decay, no memory.

    Put it outside a chain (`freeze(chain(ClipNorm(1.0), …), "embed.*")`), so that clipping does not count them.

    >>> from fnopt import SGD
    >>> optimizer, ones = freeze(SGD(1.0), "embed.*"), {"embed.weight": torch.ones(1), "head": torch.ones(1)}
    >>> optimizer.update(ones, optimizer.init_state(ones), ones)[0]
    {'embed.weight': tensor([1.]), 'head': tensor([0.])}

    Raises StructureError from init_state for a glob that matches no parameter.
    """
    check_pure("freeze", optimizer, Optimizer)
    return Freeze(optimizer, patterns)
