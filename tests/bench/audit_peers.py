"""What audit.py runs the laws on: a few optimizers of each library, and what they are compared with."""

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import attrs
import torch

import fnopt
from fnopt.laws.strategies import SHAPES

MATRICES = ((1, 1), (2, 3), (3, 1), (3, 2))
FALSE_ALARMS = {  # of laws whose domain is wider than what they are about
    "rectified": "it has betas and eps and is no Adam: its first steps are those of SGD with momentum, by design",
    "bounded": "it has betas and eps and is no Adam: its steps are clipped to bounds that do not scale, by design",
    "yogi": "it has betas and eps and is no Adam: its moments begin at 1e-6 and grow additively, by design",
    "trust": "its decay is part of the step that the trust ratio scales: a third form, as in its paper",
    "proximal": "its decay divides by 1 + lr wd: a third form, as in its paper",
    "schedule": "its state has one count more when lr is a schedule, and the law hands one state to both",
    "number": "its count is a Python number, of which vmap cannot have one for each member",
    "lambd": "its decay is called lambd and on by default: the law turns off weight_decay alone",
}


@attrs.frozen
class Subject:
    """An optimizer; the one of fnopt that is the same rule, if any; shapes that it is for; laws it is excused from."""

    made: Any
    reference: Any = None
    shapes: tuple[tuple[int, ...], ...] = SHAPES
    excused: dict[str, str] = attrs.field(factory=dict[str, str])  # law -> key of FALSE_ALARMS


class TorchOpt:
    """A rule of TorchOpt as fnopt's laws call one, with all arguments of its function as fields.

    Its state is tuples and lists, by position: here a flat dict, named by path. A Python number in it is held as a
    tensor. The rule itself is made anew for each new state, as in a new process.
    """

    rules: ClassVar[dict[str, Any]] = {}

    def __init__(self, rule: str, **arguments: Any):
        self._rule, self._given = rule, tuple(arguments)
        bound = inspect.signature(self._function()).bind(**arguments)
        bound.apply_defaults()
        self.__dict__.update(bound.arguments)

    def __repr__(self) -> str:
        arguments = "".join(f", {name}={getattr(self, name)!r}" for name in self._given)
        return f"TorchOpt({self._rule!r}{arguments})"

    def init_state(self, params: Any) -> dict[str, torch.Tensor]:
        """What `init` returns, flat."""
        self.rules[repr(vars(self))] = self._function()(**self._arguments())
        return _flat(self._made().init(dict(params)))

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """`update` and then `apply_updates`, both with inplace=False."""
        import torchopt

        rule, params = self._made(), dict(params)
        like, structure = torchopt.pytree.tree_flatten(rule.init(params))
        pairs = zip(state.values(), like, strict=True)
        held = [leaf if isinstance(old, torch.Tensor) else leaf.item() for leaf, old in pairs]
        nested = torchopt.pytree.tree_unflatten(structure, held)
        updates, new = rule.update(dict(grads), nested, params=params, inplace=False)
        return torchopt.apply_updates(params, updates, inplace=False), _flat(new)

    def _function(self) -> Callable[..., Any]:
        return getattr(importlib.import_module("torchopt"), self._rule)

    def _arguments(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def _made(self) -> Any:
        return self.rules.setdefault(repr(vars(self)), self._function()(**self._arguments()))


def _flat(state: Any) -> dict[str, torch.Tensor]:
    import optree

    paths, leaves, _ = optree.tree_flatten_with_path(state)
    return {".".join(map(str, path)): torch.as_tensor(leaf) for path, leaf in zip(paths, leaves, strict=True)}


def of_torch() -> list[Subject]:
    """torch.optim."""
    o, nesterov = torch.optim, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    return [
        Subject(o.AdamW, fnopt.AdamW()),
        Subject(partial(o.SGD, lr=0.1, **nesterov), fnopt.SGD(0.1, **nesterov)),
        Subject(partial(o.Adam, amsgrad=True, weight_decay=0.1), fnopt.Adam(amsgrad=True, weight_decay=0.1)),
        Subject(o.NAdam),
        Subject(o.RAdam, excused={"law_scale_of_gradients_does_not_matter": "rectified"}),
        Subject(o.Adamax),
        Subject(o.Adadelta),
        Subject(o.ASGD, excused={"law_zero_gradients_move_nothing": "lambd"}),
        Subject(o.Rprop),
        Subject(partial(o.RMSprop, centered=True), fnopt.RMSprop(centered=True)),
        Subject(o.Adagrad, fnopt.Adagrad()),
        Subject(o.Adafactor, fnopt.Adafactor()),
        Subject(o.Muon, fnopt.Muon(), MATRICES),
    ]


def of_torchopt() -> list[Subject]:
    """TorchOpt, by its functional rules."""
    nesterov, damped = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, {"momentum": 0.9, "dampening": 0.5}
    excused = {"law_schedules_are_read_at_the_count": "schedule"}
    numbered = {**excused, "law_vmap_is_loop": "number"}
    rectified = {**numbered, "law_scale_of_gradients_does_not_matter": "rectified"}
    return [
        Subject(TorchOpt("adamw"), fnopt.AdamW(), excused=excused),
        Subject(TorchOpt("sgd", lr=0.1, **nesterov), fnopt.SGD(0.1, **nesterov), excused=excused),
        Subject(TorchOpt("sgd", lr=0.1, **damped), fnopt.SGD(0.1, **damped), excused=excused),
        Subject(TorchOpt("adam", weight_decay=0.1), fnopt.Adam(weight_decay=0.1), excused=excused),
        Subject(TorchOpt("rmsprop", centered=True), fnopt.RMSprop(centered=True), excused=excused),
        Subject(TorchOpt("adagrad"), fnopt.Adagrad(), excused=excused),
        Subject(TorchOpt("adadelta"), excused=excused),
        Subject(TorchOpt("adamax"), excused=numbered),
        Subject(TorchOpt("radam"), excused=rectified),
    ]


def of_pytorch_optimizer() -> list[Subject]:
    """pytorch_optimizer, whose AdamW and SGD are those of torch."""
    import pytorch_optimizer as o

    decoupled = fnopt.SGD(0.1, momentum=0.9, weight_decay=0.1, decoupled_weight_decay=True)
    return [
        Subject(partial(o.SGDW, lr=0.1, momentum=0.9, weight_decay=0.1), decoupled),
        Subject(partial(o.Lion, weight_decay=0.1), fnopt.Lion(lr=1e-4, weight_decay=0.1)),
        Subject(o.QHAdam, fnopt.Adam()),
        Subject(o.StableAdamW),
        Subject(o.AdaBelief),
        Subject(o.AdaBound, excused={"law_scale_of_gradients_does_not_matter": "bounded"}),
        Subject(o.Lamb, excused={"law_decay_is_as_documented": "trust"}),
        Subject(o.Adan, excused={"law_decay_is_as_documented": "proximal"}),
        Subject(o.ADOPT),
        Subject(o.Yogi, excused={"law_scale_of_gradients_does_not_matter": "yogi"}),
        Subject(o.LaProp),
    ]


def of_heavyball() -> list[Subject]:
    """HeavyBall, without torch.compile."""
    import heavyball as o

    o.utils.compile_mode = None
    decoupled = fnopt.AdamW(lr=0.0025, betas=(0.9, 0.99), weight_decay=0.0)
    return [
        Subject(o.AdamW, decoupled),
        Subject(partial(o.SGD, lr=0.1), fnopt.SGD(0.1, momentum=0.9)),
        Subject(partial(o.NAdam, weight_decay=0.1)),
        Subject(o.RMSprop),
        Subject(o.ADOPT),
        Subject(o.LaProp),
    ]


LIBRARIES = {  # name of the distribution -> its subjects
    "torch": of_torch,
    "torchopt": of_torchopt,
    "pytorch_optimizer": of_pytorch_optimizer,
    "heavyball": of_heavyball,
}
