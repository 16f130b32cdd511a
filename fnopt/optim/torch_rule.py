"""The rules that torch has too: torch's arguments, checks and state, and the pure update of fnopt.

Each class is also a subclass of torch's own, which judges the arguments, begins the state and mends old checkpoints; so
all of that is torch's behaviour, to the text of its errors. Only `step` is not. Private; one class per file beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
from torch import Tensor

from .._torch import init_group
from ..errors import HyperparameterError
from ..transforms.chain import ChainedTransform
from .adapter import TorchOptimizer
from .groups import number
from .rule import Rule

Number = float | Tensor


class TorchRule(TorchOptimizer):
    """What the classes have in common: hyperparameters of a record, from a group with torch's names."""

    pure: ClassVar[Any]
    torch_class: ClassVar[Any]

    def _begin_as_torch(self, compile: bool, params: Any, **arguments: Any) -> None:
        self._setup(compile)
        self.torch_class.__init__(self, params, **arguments)
        # with fused=True torch's step would unscale and skip by itself; here GradScaler does it, as without
        self.__dict__.pop("_step_supports_amp_scaling", None)

    def _rule(self, group: Mapping[str, Any]) -> Any:
        fields = attrs.fields_dict(self.pure)
        return self.pure(**{key: number(group[key]) for key in fields if key in self.defaults})

    def _transform(self) -> ChainedTransform:
        return ChainedTransform(())

    def _schedules(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def _begin(self, group: Mapping[str, Any], rule: Rule, live: Sequence[Tensor]) -> list[tuple[str, ...]]:
        if live:
            init_group(self, group)
        return super()._begin(group, rule, live)

    def _sparse(
        self, group: Mapping[str, Any], rule: Rule, live: list[tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        init_group(self, group)  # which says so
        return super()._sparse(group, rule, live)


def refuse_compile(owner: str, compile: bool) -> None:
    """For a rule that looks at whole parameters there is no kernel."""
    if compile:
        raise HyperparameterError(
            f"{owner}: compile=True is for rules that look at each entry alone, and this one looks at whole "
            "parameters; leave it out"
        )
