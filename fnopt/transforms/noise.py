"""Gaussian noise on gradients, drawn by counting, so that it is a pure function and runs under vmap and in a trace."""

import hashlib
import math
from typing import Any, ClassVar, TypedDict

import attrs
import torch
from torch import Tensor

from ..errors import HyperparameterError
from ..randomness import mix
from ..record import hyper, non_negative, record
from ..tensors import at, check_grads, check_params, each_leaf, first_step, scaled_add
from ..types import Hyper, Scope, Tensors


class AddNoiseState(TypedDict):
    """The place in the stream of noise."""

    step: Tensor  # int64, 0-d
    key: Tensor  # int64, 0-d: from the seed; members of an ensemble with different keys have different noise


def _is_seed(_: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if type(value) is not int or value < 0:
        raise HyperparameterError(f"AddNoise: {attribute.name} must be an int >= 0, got {value!r}")


@record
class AddNoise:
    r"""Add independent Gaussian noise to every entry of every gradient.

        g_t = g + std n        n ~ N(0, 1), a function of (seed, step, name of the parameter, entry)

    No generator is touched: the same state gives the same noise, in eager, under vmap and in a trace. To anneal it as
    in the paper give a Schedule: `std = sqrt(eta / (1 + t)^0.55)`. Complex gradients get noise on both parts.

    Law: the noise of two steps, parameters or seeds is uncorrelated, with mean 0 and variance std^2.

    >>> transform, params = AddNoise(std=0.1, seed=1), {"w": torch.zeros(10_000)}
    >>> grads, state = transform.transform(params, transform.init_state(params), params)
    >>> round(grads["w"].std().item(), 2), bool(grads["w"].mean().abs() < 0.01)
    (0.1, True)

    Raises HyperparameterError unless std >= 0 and seed is an int >= 0.
    Source: Neelakantan et al. 2015, arXiv:1511.06807; bits: the output function of SplitMix64 (Steele et al. 2014).
    """

    scope: ClassVar[Scope] = "leaf"

    std: Hyper = hyper(check=non_negative)
    seed: int = attrs.field(default=0, validator=_is_seed)

    def init_state(self, params: Tensors) -> AddNoiseState:
        """Step 0 and the key of the seed."""
        check_params("AddNoise", params)
        step = first_step(params)
        return {"step": step, "key": torch.full_like(step, mix(self.seed))}

    def transform(
        self, grads: Tensors, state: AddNoiseState, params: Tensors
    ) -> tuple[dict[str, Tensor], AddNoiseState]:
        """The gradients with noise."""
        check_grads("AddNoise", grads, params)
        (std,) = at(state["step"], self.std)
        moment = scramble(state["key"] + scramble(state["step"]))
        noise = {name: normal(scramble(moment + _number(name)), leaf) for name, leaf in grads.items()}

        def add(g: Tensor, n: Tensor) -> tuple[Tensor]:
            return (scaled_add(g, std, n),)

        (noisy,) = each_leaf(add, grads, noise)
        return noisy, {"step": state["step"] + 1, "key": state["key"]}


def normal(key: Tensor, like: Tensor) -> Tensor:
    """Standard normal float32 draws (complex: on both parts), shaped as `like`: Box and Muller's transform."""
    shape = (*like.shape, 2) if like.dtype.is_complex else like.shape
    count = torch.arange(math.prod(shape), device=like.device)
    first, second = (_uniform(scramble(key.to(like.device) + 2 * count + place)) for place in range(2))
    draws = (torch.sqrt(-2.0 * torch.log(first)) * torch.cos(2.0 * math.pi * second)).reshape(shape)
    return torch.view_as_complex(draws) if like.dtype.is_complex else draws


def scramble(word: Tensor) -> Tensor:
    """SplitMix64 on int64 tensors, whose arithmetic wraps: 64 well mixed bits of each entry."""
    word = word + _signed(0x9E3779B97F4A7C15)
    word = (word ^ _shift(word, 30)) * _signed(0xBF58476D1CE4E5B9)
    word = (word ^ _shift(word, 27)) * _signed(0x94D049BB133111EB)
    return word ^ _shift(word, 31)


def _shift(word: Tensor, places: int) -> Tensor:
    return (word >> places) & (2 ** (64 - places) - 1)  # `>>` repeats the sign bit


def _uniform(word: Tensor) -> Tensor:
    return (_shift(word, 40).to(torch.float32) + 0.5) * 2.0**-24  # 24 bits, and never 0: its logarithm is taken


def _number(name: str) -> int:
    return _signed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
