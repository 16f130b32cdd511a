"""A TrainState as flat names to tensors, and back: `params/layer.weight`, `opt_state/exp_avg/layer.weight`, `updates`.

A key is one part of a name, percent-encoded where it has more than printable ASCII, or a character that a name could
not bear; the empty key is "%". So names are injective, and none of them can be a path that leads anywhere.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import quote, unquote

from torch import Tensor, nn, strided

from ..errors import StructureError, UsageError
from ..record import evolve
from ..state import TrainState
from .container import DTYPES

TREES = ("params", "buffers", "opt_state", "loss_scale", "updates", "extra")
SCALARS = ("position", "seed")
DEEPEST = 64
_PLAIN = "!#$&'()*+,-.:;<=>?@[]^_`{|}~"
_NAME = re.compile("(" + "|".join(TREES) + r")(/(?!\.{1,2}(/|$))[!#-.0-\[\]-~]+)*/?")


def escape(key: str) -> str:
    """A key as one part of a name.

    >>> escape("layer.weight"), escape("a/b"), escape("ü"), escape(".."), escape("")
    ('layer.weight', 'a%2Fb', '%C3%BC', '%2E.', '%')
    """
    if key in (".", ".."):
        return "%2E" + key[1:]
    return quote(key, safe=_PLAIN, errors="surrogatepass") or "%"


def unescape(part: str) -> str:
    """The key of a part of a name.

    >>> [unescape(escape(key)) for key in ("layer.weight", "a/b", "ü", "..", "")]
    ['layer.weight', 'a/b', 'ü', '..', '']
    """
    return "" if part == "%" else unquote(part, errors="surrogatepass")


def is_name(name: str) -> bool:
    """Could `flatten` have made this name?"""
    return _NAME.fullmatch(name) is not None


def flatten(owner: str, state: TrainState) -> dict[str, Tensor | None]:
    """Every tensor of a state by name, in order; an empty dict is a name that ends in "/", and None.

    Raises UsageError and StructureError, with the name of what cannot be stored.
    """
    if not isinstance(cast(object, state), TrainState):
        raise UsageError(f"{owner}: expected a TrainState, got {type(state).__name__}; TrainState.of(params) makes one")
    return {name: leaf for tree in TREES for name, leaf in _walk(owner, tree, getattr(state, tree), 0)}


def rebuild(like: TrainState, values: Mapping[str, Tensor], position: int, seed: int) -> TrainState:
    """The structure of `like`, with these tensors by name."""
    trees = {tree: _fill(tree, getattr(like, tree), values) for tree in TREES}
    return evolve(like, **trees, position=position, seed=seed)


def _walk(owner: str, name: str, value: Any, depth: int) -> Iterator[tuple[str, Tensor | None]]:
    if isinstance(value, Tensor):
        yield name, _checked(owner, name, value)
        return
    if type(value) is not dict:
        what = type(value).__name__
        fix = "torch.tensor(…) makes it one" if isinstance(value, int | float) else "a state is plain dicts of tensors"
        raise UsageError(f"{owner}: {name} is of type {what}, expected a tensor or a plain dict; {fix}")
    if depth == DEEPEST:
        raise StructureError(f"{owner}: {name[:80]}… is nested deeper than {DEEPEST} dicts; does a dict hold itself?")
    items = cast(dict[Any, Any], value).items()
    if not items:
        yield name + "/", None
    for key, item in items:
        if not isinstance(key, str):
            raise UsageError(f"{owner}: {name} has the key {key!r}, expected strings only; use {str(key)!r}")
        yield from _walk(owner, f"{name}/{escape(key)}", item, depth + 1)


def _checked(owner: str, name: str, leaf: Tensor) -> Tensor:
    if type(leaf) not in (Tensor, nn.Parameter):
        raise UsageError(
            f"{owner}: {name} is a {type(leaf).__name__}, expected a plain tensor; sharded tensors go through "
            "torch.distributed.checkpoint"
        )
    if leaf.layout != strided or leaf.is_nested:
        raise StructureError(f"{owner}: {name} has layout {leaf.layout}, expected a dense tensor; call .to_dense()")
    if leaf.is_meta:
        raise StructureError(f"{owner}: {name} is on the meta device and has no values; use .to_empty() and fill it")
    if leaf.dtype not in DTYPES:
        raise StructureError(f"{owner}: {name} has dtype {leaf.dtype}, which a checkpoint cannot hold; convert it")
    return leaf


def _fill(name: str, value: Any, values: Mapping[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return values[name]
    return {key: _fill(f"{name}/{escape(key)}", item, values) for key, item in cast(dict[str, Any], value).items()}
