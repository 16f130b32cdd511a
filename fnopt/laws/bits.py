"""What laws ask of tensors: the same bits, unchanged since, close, apart from one another."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from .._torch import version
from ..types import Tensors
from . import torch_optim
from .case import code
from .fields import fields_of
from .kinds import kind_of
from .law import BrokenLawError


def require(condition: bool | Tensor, message: str, *shown: Any) -> None:
    """Raise BrokenLawError unless the condition holds; `shown` goes into the message, tensors as code."""
    if not condition:
        raise BrokenLawError(message.format(*(_show(value) for value in shown)) if shown else message)


def apply(thing: Any, grads: Tensors, state: Any, params: Tensors) -> tuple[dict[str, Tensor], Any]:
    """One call of an optimizer or transform: new params or new grads, and the new state."""
    optimizes = kind_of(thing) == "optimizer"
    result = (thing.update if optimizes else thing.transform)(grads, state, params)
    if not isinstance(result, tuple) or len(cast(Any, result)) != 2:
        method, pair = ("update", "(params, state)") if optimizes else ("transform", "(grads, state)")
        got = type(cast(object, result)).__name__
        require(False, f"{method} returned a {got}, expected a tuple {pair}; without memory the state is {{}}")
    return cast(Any, result)


def run(thing: Any, params: Tensors, grads: list[dict[str, Tensor]]) -> Iterator[tuple[dict[str, Tensor], Any]]:
    """The results of all updates, one after another, from a fresh state."""
    kind = kind_of(thing)
    if kind == "torch optimizer":
        yield from torch_optim.run(thing, params, grads)
        return
    state, optimizes = thing.init_state(params), kind == "optimizer"
    for gradient in grads:
        result, state = apply(thing, gradient, state, params)
        params = result if optimizes else params
        yield result, state


def leaves(tree: Any, path: str) -> dict[str, Any]:
    """The leaves of a nested dict (or tuple) by path, as code: `state['exp_avg']['w']`."""
    if isinstance(tree, Mapping):
        items = [(repr(key), value) for key, value in cast(Mapping[Any, Any], tree).items()]
    elif isinstance(tree, tuple | list):
        items = [(str(place), value) for place, value in enumerate(cast(Any, tree))]
    else:
        return {path: tree}
    return {deep: leaf for key, value in items for deep, leaf in leaves(value, f"{path}[{key}]").items()}


def same_values(a: Tensor, b: Tensor) -> bool:
    """Same shape and equal numbers, 0.0 and -0.0 alike; nan is nan."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Same dtype, shape and bits; a nan is any nan, but 0.0 is not -0.0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    x, y = real(a), real(b)
    if not x.dtype.is_floating_point:
        return torch.equal(x, y)
    return bool(((_raw(x) == _raw(y)) | (x.isnan() & y.isnan())).all())


def require_same(got: Any, expected: Any, path: str, why: str) -> None:
    """Two trees of tensors have the same names and the same bits."""
    mine, theirs = leaves(got, path), leaves(expected, path)
    require(list(mine) == list(theirs), f"{path} has the leaves {list(mine)}, expected {list(theirs)}: {why}")
    for name, leaf in mine.items():
        other = theirs[name]
        same = same_bits(leaf, other) if isinstance(leaf, Tensor) and isinstance(other, Tensor) else leaf == other
        require(same, "{} is {}, expected {}: {}", name, leaf, other, why)


def require_close(got: Tensor, expected: Tensor, bound: Tensor | float, path: str, why: str) -> None:
    """Equal up to `bound` (an absolute error, entry by entry) and to a subnormal number; the same where not finite."""
    message = ("{} is {}, expected {}: {}", path, got, expected, why)
    require(got.dtype == expected.dtype and got.shape == expected.shape, *message)
    a, b, info = real(got).double(), real(expected).double(), torch.finfo(got.dtype)
    close = (a - b).abs() <= bound + info.smallest_normal * info.eps
    require((close | (a == b) | (a.isnan() & b.isnan())).all(), *message)


@contextmanager
def unchanged(**inputs: Any) -> Generator[None]:
    """Inside, no tensor among the inputs may change: neither its bits nor its version, nor what the dicts hold.

    Nor may the global generator move: noise is a function of what goes in.
    """
    before = {name: (leaf, _stamp(leaf)) for name, leaf in _inputs(inputs).items()}
    generator = torch.get_rng_state()
    yield
    after = _inputs(inputs)
    require(list(after) == list(before), f"the inputs held {list(before)}, and now {list(after)}")
    for name, (leaf, stamp) in before.items():
        require(after[name] is leaf, f"{name} was replaced in the dict that was passed in")
        if isinstance(leaf, Tensor):
            old, clone = stamp
            require(same_bits(leaf, clone), "{} was {} and is now {}", name, clone, leaf)
            require(version(leaf) == old, f"{name} was written to (with the same values)")
    require(torch.equal(torch.get_rng_state(), generator), "torch's global generator moved")


def require_apart(inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    """No output shares memory with another output, or with an input other than itself, passed on in its place."""
    owners: dict[int, str] = {}
    given = _inputs(inputs)
    for name, leaf in given.items():
        if isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes():
            owners[leaf.untyped_storage().data_ptr()] = name
    for name, leaf in _inputs(outputs).items():
        if isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes() and given.get(name) is not leaf:
            place = leaf.untyped_storage().data_ptr()
            require(place not in owners, f"the new {name} shares its memory with {owners.get(place)}")
            owners[place] = f"the new {name}"


def real(leaf: Tensor) -> Tensor:
    """Complex numbers as pairs."""
    return torch.view_as_real(leaf) if leaf.dtype.is_complex else leaf


def _show(value: Any) -> str:
    return code(value.detach()) if isinstance(value, Tensor) else str(value)


def _inputs(trees: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, tree in trees.items():
        if isinstance(tree, Mapping | tuple | list):
            found.update(leaves(tree, name))
        else:  # a thing: its hyperparameters
            fields = [(field, value) for field, value in fields_of(tree) if isinstance(value, Tensor)]
            found.update({f"{name}'s {field} ({place})": leaf for place, (field, leaf) in enumerate(fields)})
    return found


def _stamp(leaf: Any) -> Any:
    return (version(leaf), leaf.detach().clone()) if isinstance(leaf, Tensor) else None


def _raw(leaf: Tensor) -> Tensor:
    widths = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return leaf.detach().contiguous().view(widths[leaf.dtype.itemsize])
