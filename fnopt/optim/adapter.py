"""`TorchOptimizer`: any pure optimizer as a torch.optim.Optimizer, and the base of the drop-in classes.

A step is: gather the gradients, run the pure update, write the new values where the old ones lie. Hyperparameters are
read from `param_groups` at each step, and what is remembered is kept in `state`, as every client of torch expects.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer as Base

from ..errors import StateMismatchError
from ..rules.describe import describe
from ..transforms.chain import ChainedTransform, check_pure
from ..types import Optimizer
from . import plain
from .bridge import functional, groups_of, load_functional, pure_of
from .decompose import decompose, fields_of, labelled, listed, with_fields
from .groups import ParamGroup, number
from .loading import keep_dtypes, prepared
from .rule import Rule
from .stepper import Stepper


class TorchOptimizer(Base):
    """A pure optimizer over parameters that live in modules.

    `params` is what torch's optimizers take: parameters, named parameters, or param groups. Groups carry the
    hyperparameters of the update rule, and may override them. Transforms in front of it (`chain(ClipNorm(1.0), …)`) see
    the gradients of all groups at once. A `partition` makes one group per label, of named parameters. What follows a
    Schedule is shown in the groups, and cannot be written there. `compile=True` runs elementwise rules as one compiled
    kernel.

    >>> import fnopt
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = TorchOptimizer(model.parameters(), fnopt.chain(fnopt.ClipNorm(1.0), fnopt.SGD(0.1)))
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> optimizer.param_groups[0]["lr"]
    0.1

    Raises UsageError for an optimizer that is not pure, and what torch.optim.Optimizer raises for params.
    """

    _counts = True  # does the state of a parameter hold the number of its updates?

    def __init__(self, params: Any, optimizer: Optimizer[Any], *, compile: bool = False) -> None:
        check_pure("TorchOptimizer", optimizer, Optimizer)
        groups, names = listed(params)
        self._setup(compile)
        self._pure: Any = optimizer
        self._parts = decompose(optimizer, names)
        if self._parts.labels is not None:
            groups = labelled(groups, self._parts)
        first = next(iter(self._parts.optimizers.values()))
        super().__init__(groups, self._shown(fields_of(first), 0))

    def _setup(self, compile: bool) -> None:
        self._compile = compile
        self._stepper = Stepper(compile)

    # what torch asks of an optimizer

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns what `closure`, run first, returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(bool(self.defaults.get("differentiable"))):
            self._stepper.step(self)
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """One more group of parameters, as in torch."""
        super().add_param_group(param_group)
        self._adopt(len(self.param_groups) - 1)

    def load_state_dict(self, state_dict: Any, *, strict: bool = False, keep_hyperparameters: bool = False) -> None:
        """Load a state, as torch does: by position, moments cast to the dtype of the parameter.

        strict                 match by name, and refuse a state that does not fit exactly: other names, shapes, dtypes
                               or optimizer, missing or unexpected parts, numbers out of range. Nothing has changed then
        keep_hyperparameters   the groups keep their numbers (a new learning rate, say), only the state is loaded

        Raises StateMismatchError, with one line for each reason, where strict; else what torch raises.
        """

        loaded: dict[str, Any] = {}

        def prepare(_: Any, given: Any) -> Any:
            loaded.update(prepared(self, given, strict, keep_hyperparameters))
            return loaded

        handle = self.register_load_state_dict_pre_hook(prepare)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        keep_dtypes(self, loaded)

    def functional(self) -> tuple[Any, Any, dict[str, Tensor]]:
        """The running optimizer in the functional world: `(optimizer, state, params)`, all copies.

        Groups become the parts of a `partition`; parameters go by name, or by number where they have none.

        >>> layer = torch.nn.Linear(1, 1)
        >>> import fnopt
        >>> optimizer, state, params = TorchOptimizer(layer.named_parameters(), fnopt.SGD(0.1)).functional()
        >>> optimizer.lr, sorted(params)
        (0.1, ['bias', 'weight'])

        Raises StructureError, with their names, for parameters that had unequal numbers of updates.
        """
        return functional(self)

    def load_functional(self, opt_state: Any, params: Mapping[str, Tensor]) -> None:
        """Back from the functional world: write state and params, as `functional` gave them, where they live.

        Raises StructureError for params of other names or shapes.
        """
        load_functional(self, opt_state, params)

    def describe(self) -> str:
        """A table of who updates what, as `fnopt.describe` prints it."""
        params = {name: param for _, _, owned in groups_of(self) for name, param in owned.items()}
        return describe(pure_of(self), params)

    def __getstate__(self) -> dict[str, Any]:
        own = {key: value for key, value in self.__dict__.items() if key in ("_pure", "_parts", "_compile")}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._setup(self.__dict__.get("_compile", False))
        for place in range(len(self.param_groups)):
            self._adopt(place)
        with torch.no_grad():
            self._stepper.settle(self)

    # hyperparameters

    def _rule(self, group: Mapping[str, Any]) -> Any:
        """The pure optimizer with the hyperparameters of a group."""
        part = self._parts.optimizers[group.get("label", "")]
        own = fields_of(part)
        return with_fields(part, {key: number(group[key]) for key in own if not _is_schedule(own[key])})

    def _transform(self) -> ChainedTransform:
        return self._parts.transform

    def _adopt(self, place: int) -> None:
        """Check the numbers of a group; where it has Schedules, make it one that shows them."""
        group = self.param_groups[place]
        scheduled = self._schedules(group)
        if scheduled and not isinstance(group, ParamGroup):
            group = ParamGroup(group)
            group.show(self._shown_now(group))
            group.scheduled = frozenset(scheduled)
            self.param_groups[place] = group
        self._stepper.rule(self, place)

    def _schedules(self, group: Mapping[str, Any]) -> dict[str, Any]:
        own = fields_of(self._parts.optimizers[group.get("label", "")])
        return {key: value for key, value in own.items() if _is_schedule(value)}

    def _shown(self, fields: Mapping[str, Any], updates: int) -> dict[str, Any]:
        step = torch.tensor(updates)
        return {key: float(value(step)) if _is_schedule(value) else value for key, value in fields.items()}

    def _shown_now(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return self._shown(self._schedules(group), self._updates(group))

    def _updates(self, group: Mapping[str, Any]) -> int:
        steps = [self.state[p].get("step", 0) for p in group["params"] if p in self.state]
        return int(max(steps, default=0))

    # what is remembered

    def _clock(self, state: Mapping[str, Any]) -> float:
        """How many updates a parameter had."""
        return float(state.get("step", 0))

    def _needs(self, rule: Rule, live: Sequence[Tensor]) -> list[tuple[str, ...]]:
        """The paths of what the rule remembers of each of these parameters."""
        known: dict[int, tuple[str, ...]] = {}
        for param in live:
            if param.ndim not in known:
                sample = rule.pure.init_state({"p": torch.empty((1,) * param.ndim, dtype=param.dtype)})
                known[param.ndim] = tuple(rule.skeleton.spread(sample, ["p"])[1]["p"])
        return [known[param.ndim] for param in live]

    def _begin(self, group: Mapping[str, Any], rule: Rule, live: Sequence[Tensor]) -> list[tuple[str, ...]]:
        """Make what is not yet remembered of these parameters; returns the paths of what each needs."""
        keys, once = self._needs(rule, live), rule.skeleton.shared if self._counts else ()
        for param, needed in zip(live, keys, strict=True):
            wanted = {*once, *needed}
            state: dict[str, Any] = self.state[param] if wanted else {}
            lacking = {path for path in wanted if state.get(path) is None}
            if lacking == wanted and wanted:
                shared, members = rule.skeleton.spread(rule.pure.init_state({"p": param.detach()}), ["p"])
                if "step" in shared:
                    shared["step"] = torch.tensor(0.0, dtype=_clock_dtype())
                state.update({**{path: shared[path] for path in once}, **members["p"]})
            elif lacking:
                raise StateMismatchError(
                    f"{type(self).__name__}: the state of a parameter of shape {list(param.shape)} lacks "
                    f"{sorted(lacking)}, and has {sorted(map(str, state))}: it was loaded from another setting, or "
                    "damaged; load_state_dict(state, strict=True) says where"
                )
            if isinstance(state.get("step"), int | float):
                state["step"] = torch.tensor(float(state["step"]), dtype=_clock_dtype())
        return keys

    def _by_entries(self, rule: Rule, live: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Update only the entries that sparse gradients name; returns the parameters with dense ones."""
        for param, grad in live:
            if grad.layout is not torch.strided:
                plain.update_entries(self, rule, param, grad.coalesce())
        return [(param, grad) for param, grad in live if grad.layout is torch.strided]

    def _sparse(
        self, group: Mapping[str, Any], rule: Rule, live: list[tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Update the parameters with sparse gradients; returns the others."""
        raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")


def _clock_dtype() -> torch.dtype:
    """That of torch's clocks."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def _is_schedule(value: Any) -> bool:
    return callable(value) and not isinstance(value, Tensor)
