"""The update rules that torch has too: torch's arguments, checks and state, and the pure update of fnopt.

Each is also a subclass of torch's own class, which judges the arguments, begins the state and mends old checkpoints;
so all of that is torch's behaviour, to the text of its errors. Only `step` is not.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from .._torch import init_group
from ..errors import HyperparameterError
from ..rules.adafactor import Adafactor as PureAdafactor
from ..rules.adagrad import Adagrad as PureAdagrad
from ..rules.adam import Adam as PureAdam
from ..rules.adamw import AdamW as PureAdamW
from ..rules.muon import Muon as PureMuon
from ..rules.rmsprop import RMSprop as PureRMSprop
from ..rules.sgd import SGD as PureSGD
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


class Adam(TorchRule, torch.optim.Adam):
    r"""torch.optim.Adam, with the update of fnopt.Adam: the same arguments, state_dict and bits.

    `foreach` and `fused` are kept as hints and change nothing; `decoupled_weight_decay` makes it AdamW. `compile=True`
    runs the update as one compiled kernel, whose last bits may differ.

    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = Adam(layer.parameters(), lr=0.1)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> layer(torch.ones(1, 1)).sum().backward()
    >>> optimizer.step()
    >>> round(layer.weight.item(), 4)
    0.9

    Raises what torch.optim.Adam raises, and HyperparameterError for a number that it lets pass and no rule can use.
    """

    pure, torch_class = PureAdam, torch.optim.Adam

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        compile: bool = False,
    ) -> None:
        self._begin_as_torch(
            compile,
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )

    def _rule(self, group: Mapping[str, Any]) -> Any:
        kind = PureAdamW if group["decoupled_weight_decay"] else PureAdam
        return kind(**{key: number(group[key]) for key in attrs.fields_dict(kind)})


class AdamW(Adam, torch.optim.AdamW):
    r"""torch.optim.AdamW, with the update of fnopt.AdamW: the same arguments, state_dict and bits, faster.

    `foreach` and `fused` are kept as hints and change nothing. `compile=True` runs the update as one compiled kernel,
    whose last bits may differ.

    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = AdamW(layer.parameters(), lr=0.1, weight_decay=0.5)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> layer(torch.ones(1, 1)).sum().backward()
    >>> optimizer.step()
    >>> round(layer.weight.item(), 4)
    0.85

    Raises what torch.optim.AdamW raises, and HyperparameterError for a number that it lets pass and no rule can use.
    """

    pure, torch_class = PureAdamW, torch.optim.AdamW

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        compile: bool = False,
    ) -> None:
        self._begin_as_torch(
            compile,
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )


class SGD(TorchRule, torch.optim.SGD):
    r"""torch.optim.SGD, with the update of fnopt.SGD: the same arguments, state_dict and bits.

    `foreach` and `fused` are kept as hints and change nothing. `compile=True` runs the update as one compiled kernel,
    whose last bits may differ. Sparse gradients are taken, as in torch.

    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = SGD(layer.parameters(), lr=0.1)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> layer(torch.ones(1, 1)).sum().backward()
    >>> optimizer.step()
    >>> round(layer.weight.item(), 4)
    0.9

    Raises what torch.optim.SGD raises.
    """

    pure, torch_class = PureSGD, torch.optim.SGD
    _counts = False

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: Number = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        compile: bool = False,
    ) -> None:
        self._begin_as_torch(
            compile,
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )

    def _clock(self, state: Mapping[str, Any]) -> float:
        return 0.0 if state.get("momentum_buffer") is None else 1.0  # the rule asks only whether it is the first

    def _sparse(
        self, group: Mapping[str, Any], rule: Rule, live: list[tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        if group["weight_decay"] != 0:
            raise RuntimeError("SGD: weight_decay is not compatible with sparse gradients; use weight_decay=0")
        if group["momentum"] != 0:  # zeros move, too
            return [(p, g if g.layout is torch.strided else g.to_dense()) for p, g in live]
        return self._by_entries(rule, live)


class RMSprop(TorchRule, torch.optim.RMSprop):
    r"""torch.optim.RMSprop, with the update of fnopt.RMSprop: the same arguments, state_dict and bits.

    `foreach` is kept as a hint and changes nothing. `compile=True` runs the update as one compiled kernel, whose last
    bits may differ.

    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = RMSprop(layer.parameters(), lr=0.1, alpha=0.75)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> layer(torch.ones(1, 1)).sum().backward()
    >>> optimizer.step()
    >>> round(layer.weight.item(), 4)
    0.8

    Raises what torch.optim.RMSprop raises, and HyperparameterError for an alpha of 1 or more.
    """

    pure, torch_class = PureRMSprop, torch.optim.RMSprop

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        compile: bool = False,
    ) -> None:
        self._begin_as_torch(
            compile,
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
        )


class Adagrad(TorchRule, torch.optim.Adagrad):
    r"""torch.optim.Adagrad, with the update of fnopt.Adagrad: the same arguments, state_dict and bits.

    `foreach` and `fused` are kept as hints and change nothing. `compile=True` runs the update as one compiled kernel,
    whose last bits may differ. A sparse gradient updates the entries that it names, as in torch.

    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = Adagrad(layer.parameters(), lr=0.1)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> layer(torch.ones(1, 1)).sum().backward()
    >>> optimizer.step()
    >>> round(layer.weight.item(), 4)
    0.9

    Raises what torch.optim.Adagrad raises.
    """

    pure, torch_class = PureAdagrad, torch.optim.Adagrad

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        compile: bool = False,
    ) -> None:
        self._begin_as_torch(
            compile,
            params,
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            fused=fused,
        )

    def _sparse(
        self, group: Mapping[str, Any], rule: Rule, live: list[tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        if group["weight_decay"] != 0:
            raise RuntimeError("weight_decay option is not compatible with sparse gradients")
        return self._by_entries(rule, live)


class Adafactor(TorchRule, torch.optim.Adafactor):
    r"""torch.optim.Adafactor, with the update of fnopt.Adafactor: the same arguments, state_dict and bits.

    `foreach` is kept as a hint and changes nothing; `compile=True` is refused, for it looks at whole parameters.

    >>> layer = torch.nn.Linear(2, 2, bias=False)
    >>> optimizer = Adafactor(layer.parameters(), lr=0.1)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> layer(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> [round(weight, 4) for weight in layer.weight[0].tolist()]
    [0.9, 0.9]

    Raises what torch.optim.Adafactor raises.
    """

    pure, torch_class = PureAdafactor, torch.optim.Adafactor

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        compile: bool = False,
    ) -> None:
        _refuse_compile("Adafactor", compile)
        self._begin_as_torch(
            False,
            params,
            lr=lr,
            beta2_decay=beta2_decay,
            eps=eps,
            d=d,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
        )

    def _rule(self, group: Mapping[str, Any]) -> Any:
        first, second = group["eps"]
        dtypes = [param.dtype for param in group["params"] if param.is_floating_point()]
        if first is None and dtypes:  # torch's choice: the dtype of the first parameter
            first = torch.finfo(dtypes[0]).eps
        return super()._rule({**group, "eps": (first if first is None else float(first), float(second))})


class Muon(TorchRule, torch.optim.Muon):
    r"""torch.optim.Muon, with the update of fnopt.Muon: the same arguments, state_dict and bits.

    `compile=True` is refused, for it looks at whole parameters.

    >>> layer = torch.nn.Linear(2, 2, bias=False)
    >>> optimizer = Muon(layer.parameters(), lr=0.1, weight_decay=0.0)
    >>> _ = torch.nn.init.eye_(layer.weight)
    >>> (7 * layer(torch.eye(2)).diagonal()).sum().backward()
    >>> optimizer.step()
    >>> bool((layer.weight.diagonal() < 0.94).all())
    True

    Raises what torch.optim.Muon raises, and HyperparameterError for a momentum of 1 or more.
    """

    pure, torch_class = PureMuon, torch.optim.Muon
    _counts = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        compile: bool = False,
    ) -> None:
        _refuse_compile("Muon", compile)
        self._begin_as_torch(
            False,
            params,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=ns_coefficients,
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )

    def _clock(self, state: Mapping[str, Any]) -> float:
        return 0.0  # nothing of the rule depends on it


def _refuse_compile(owner: str, compile: bool) -> None:
    if compile:
        raise HyperparameterError(
            f"{owner}: compile=True is for rules that look at each entry alone, and this one looks at whole "
            "parameters; leave it out"
        )
