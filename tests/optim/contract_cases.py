"""One script, run with torch.optim and with fnopt.optim: whatever it hands back must agree to the bit."""

import copy
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from fnopt import optim as fnopt_optim

THREE = ("AdamW", "Adam", "SGD")
SEVEN = (*THREE, "RMSprop", "Adagrad", "Adafactor", "Muon")
SHAPES = ((3, 4), (5,), (), (2, 1, 3))
MATRICES = ((3, 4), (4, 3), (2, 2))
# Sets of arguments per class; every flag that changes the arithmetic or the state is in one of them.
FLAGS: dict[str, tuple[dict[str, Any], ...]] = {
    "AdamW": ({}, {"amsgrad": True, "maximize": True}, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}),
    "Adam": ({"weight_decay": 0.1}, {"amsgrad": True}, {"decoupled_weight_decay": True, "weight_decay": 0.2}),
    "SGD": (
        {"lr": 0.1},
        {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
        {"momentum": 0.8, "nesterov": True, "maximize": True},
    ),
    "RMSprop": ({}, {"momentum": 0.9, "centered": True}, {"weight_decay": 0.1, "maximize": True, "alpha": 0.5}),
    "Adagrad": ({}, {"lr_decay": 0.1, "weight_decay": 0.1}, {"initial_accumulator_value": 0.5, "maximize": True}),
    "Adafactor": ({}, {"weight_decay": 0.1, "maximize": True}, {"d": 2.0, "eps": (1e-3, 1e-2), "beta2_decay": -0.5}),
    "Muon": ({}, {"nesterov": False, "momentum": 0.5}, {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.0}),
}
ALL_FLAGS = [(name, flags) for name in SEVEN for flags in FLAGS[name]]
_ADDRESS = re.compile(r"0x[0-9a-f]+")


@attrs.frozen
class Raised:
    """What a call raised; a subclass of the type that torch raises is as good, since the same `except` takes it."""

    type: type[Exception]
    text: str


def attempt(call: Callable[[], Any]) -> Any:
    """What a call gives, or the type and text of what it raises."""
    try:
        return call()
    except Exception as error:
        return Raised(type(error), _ADDRESS.sub("0x", str(error)))


def with_warnings(call: Callable[[], Any]) -> tuple[Any, list[tuple[type[Warning], str]]]:
    """What a call gives, and the warnings that it gave: torch warns here, too, so they are part of the outcome."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [(warning.category, str(warning.message)) for warning in caught]


def draw(shape: Sequence[int], *seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of a seed made of several, so that each parameter and each step has its own."""
    generator = torch.Generator().manual_seed(sum(number * 1009**place for place, number in enumerate(seed)) + 7)
    return torch.randn(tuple(shape), generator=generator).to(dtype)


def parameters(name: str, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Parameters that the class `name` takes: with one of no dimension and one with a dimension of 1, but for Muon."""
    shapes = MATRICES if name == "Muon" else SHAPES
    return [nn.Parameter(draw(shape, 1, place, dtype=dtype)) for place, shape in enumerate(shapes)]


def fill(params: Iterable[Tensor], time: int) -> None:
    """Gives each parameter a gradient of this time that also depends on its value, so that no error can hide."""
    for place, param in enumerate(params):
        param.grad = 0.3 * param.detach() + draw(param.shape, 2, place, time).to(param.dtype)


def train(opt: Any, params: Sequence[Tensor], times: Iterable[int]) -> None:
    """One step per time."""
    for time in times:
        fill(params, time)
        opt.step()


def start(optim: Any, name: str, flags: dict[str, Any] | None = None) -> tuple[Any, list[nn.Parameter]]:
    """An optimizer of a module (torch's or ours) and its parameters."""
    params = parameters(name)
    return getattr(optim, name)(params, **(flags or {})), params


def look(opt: Any, params: Iterable[Tensor]) -> dict[str, Any]:
    """All that a client can see: weights, state with its order of keys and dtypes, groups, text."""
    return {
        "weights": [param.detach().clone() for param in params],
        "state_dict": copy.deepcopy(opt.state_dict()),
        "group keys": [list(group) for group in opt.param_groups],
        "repr": repr(opt),
    }


def _tensors_differ(got: Tensor, expected: Tensor) -> str | None:
    for what in ("dtype", "shape", "layout", "requires_grad"):
        if getattr(got, what) != getattr(expected, what):
            return f"{what} {getattr(got, what)}, torch has {getattr(expected, what)}"
    if got.layout != torch.strided:
        return _tensors_differ(got.to_dense(), expected.to_dense())
    sizes = expected.shape
    if got.numel() and any(
        a != b for a, b, size in zip(got.stride(), expected.stride(), sizes, strict=True) if size > 1
    ):
        return f"strides {got.stride()}, torch has {expected.stride()}"
    got, expected = got.detach().resolve_conj(), expected.detach().resolve_conj()
    if got.is_complex():
        got, expected = torch.view_as_real(got), torch.view_as_real(expected)
    same = (got == expected) & (got.signbit() == expected.signbit()) | (got.isnan() & expected.isnan())
    if not same.all():
        return f"bits: {got[~same].flatten()[:3].tolist()}, torch has {expected[~same].flatten()[:3].tolist()}"
    return None


def _children(value: Any) -> Iterator[tuple[Any, Any]] | None:
    if isinstance(value, dict):
        return iter(value.items())
    if isinstance(value, list | tuple):
        return enumerate(value)
    return None


def differs(got: Any, expected: Any, at: str = "outcome") -> str | None:
    """The first difference between two outcomes, as text; None where there is none."""
    if isinstance(expected, Raised):
        if not isinstance(got, Raised):
            return f"{at}: raised nothing but gave {got!r}, torch raises {expected}"
        alike = issubclass(got.type, expected.type) and got.text == expected.text
        return None if alike else f"{at}: {got}, torch raises {expected}"
    if type(got) is not type(expected):
        return f"{at}: a {type(got).__name__} ({got!r}), torch has a {type(expected).__name__} ({expected!r})"
    if isinstance(expected, Tensor):
        difference = _tensors_differ(got, expected)
        return f"{at}: {difference}" if difference else None
    if isinstance(expected, dict) and list(got) != list(expected):
        return f"{at}: keys {list(got)}, torch has {list(expected)}"
    children = _children(expected)
    if children is None:
        return None if got == expected or (got != got and expected != expected) else f"{at}: {got!r}, not {expected!r}"
    if len(got) != len(expected):
        return f"{at}: {len(got)} items, torch has {len(expected)}"
    found = (differs(got[key], value, f"{at}[{key!r}]") for key, value in children)
    return next(filter(None, found), None)


def agree(script: Callable[..., Any], *args: Any) -> Any:
    """Runs a script with torch.optim, then with fnopt.optim; what they hand back must be the same. Gives it back."""
    expected = script(torch.optim, *args)
    difference = differs(script(fnopt_optim, *args), expected)
    assert difference is None, difference
    return expected
