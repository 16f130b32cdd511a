"""Functions on flat dicts of tensors: the only place that loops over leaves."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ._torch import inside_transform, tree_map, vector_norm
from .errors import HyperparameterError, StructureError, UsageError
from .types import Hyper, Tensors

T = TypeVar("T")


def tmap(fn: Callable[..., Tensor], tensors: Tensors, *others: Tensors) -> dict[str, Tensor]:
    """`fn` on every leaf; `others` have the keys of `tensors`.

    >>> tmap(torch.add, {"w": torch.tensor(1.0)}, {"w": torch.tensor(2.0)})
    {'w': tensor(3.)}
    """
    return {key: fn(leaf, *(other[key] for other in others)) for key, leaf in tensors.items()}


def tensor_map(fn: Callable[[Tensor], Tensor], tree: T) -> T:
    """`fn` on every tensor of any pytree; what is not a tensor stays."""

    def on_leaf(leaf: Any) -> Any:
        return fn(leaf) if isinstance(leaf, Tensor) else leaf

    return cast(T, tree_map(on_leaf, tree))


def global_norm(tensors: Tensors) -> Tensor:
    """The Euclidean norm of all entries together: 0-d, float32 or wider.

    A sum of squares overflows long before its entries do: an infinite norm is no proof of a non-finite entry.
    """
    norms = [vector_norm(leaf, wide(leaf.dtype)) for leaf in tensors.values()]
    if not norms:
        return torch.zeros(())
    widest = max(norms, key=lambda norm: norm.dtype.itemsize)
    return vector_norm(torch.stack([norm.to(widest) for norm in norms]))


def all_finite(tensors: Tensors) -> Tensor:
    """Is every entry finite? A 0-d bool tensor: nobody waits for the device."""
    flags = [torch.isfinite(leaf).all() for leaf in tensors.values()]
    return torch.stack([flag.to(flags[0].device) for flag in flags]).all() if flags else torch.tensor(True)


def select(condition: Tensor, new: T, old: T) -> T:
    """`new` where the 0-d `condition` holds, else `old`, leaf by leaf; multiplying by 0 instead would keep a nan."""

    def pick(a: Any, b: Any) -> Any:
        return torch.where(condition.to(a.device), a, b) if isinstance(a, Tensor) and a is not b else a

    return cast(T, tree_map(pick, new, old))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that formulas compute in: float32 for half precision, else the leaf's own."""
    if dtype.is_complex:
        return torch.complex64 if dtype == torch.complex32 else dtype
    return torch.float32 if dtype.itemsize < 4 else dtype


def widen(tensors: Tensors) -> dict[str, Tensor]:
    """Every leaf in the dtype that formulas compute in."""
    return {key: leaf.to(wide(leaf.dtype)) for key, leaf in tensors.items()}


def each_leaf(
    fn: Callable[..., tuple[Tensor | None, ...]], params: Tensors, grads: Tensors, *memories: Tensors
) -> tuple[dict[str, Tensor], ...]:
    """Run the formula of an elementwise rule on each parameter: `fn(p, g, *memory) -> (p, *memory)`.

    Where a memory has no leaf for a parameter (it may be empty, too), `fn` gets None and returns None. `fn` sees
    leaves as formulas want them: real (complex as pairs), float32 or wider, at least 1-d (a 0-d leaf would let a
    float64 coefficient decide the dtype). Each result is rounded once, to the dtype of the leaf in its place.
    """
    results: tuple[dict[str, Tensor], ...] = tuple({} for _ in range(1 + len(memories)))
    for key, param in params.items():
        olds = [param, *(memory.get(key) for memory in memories)]
        dtype = _real(wide(param.dtype))
        p, *rest = [None if old is None else _enter(old, dtype) for old in olds]
        news = fn(p, _enter(grads[key], dtype), *rest)
        for result, new, old in zip(results, news, olds, strict=True):
            if new is not None and old is not None:
                result[key] = _leave(new, old)
    return results


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else dtype


def _enter(leaf: Tensor, dtype: torch.dtype) -> Tensor:
    leaf = torch.view_as_real(leaf) if leaf.dtype.is_complex else leaf
    leaf = leaf if leaf.dtype == dtype else leaf.to(dtype)
    return leaf if leaf.ndim else leaf.reshape(1)


def _leave(output: Tensor, leaf: Tensor) -> Tensor:
    if leaf.dtype.is_complex:
        return torch.view_as_complex(output.to(leaf.dtype.to_real()).contiguous()).reshape(leaf.shape)
    output = output if output.dtype == leaf.dtype else output.to(leaf.dtype)
    return output if leaf.ndim else output.reshape(())


def at(step: Tensor, *hypers: Hyper) -> tuple[float | Tensor, ...]:
    """The values of hyperparameters at this step: a Schedule is asked, floats stay floats (eager is faster with them).

    >>> at(torch.tensor(3), 0.1, lambda step: step * 2.0)
    (0.1, tensor(6.))
    """
    values: list[float | Tensor] = []
    for hyper in hypers:
        value = hyper(step) if callable(hyper) else hyper
        if isinstance(value, Tensor) and value.ndim:
            raise HyperparameterError(
                f"a hyperparameter has shape {list(value.shape)}, expected a scalar; one value per member is for "
                f"fnopt.ensemble(step, size={value.shape[0]})"
            )
        values.append(value)
    return tuple(values)


def as_tensor(value: float | Tensor, like: Tensor) -> Tensor:
    """A coefficient as a 0-d tensor of the leaf's dtype and device, for functions that take no float."""
    if isinstance(value, Tensor):
        return value.to(like.device, like.dtype)
    return torch.full((), value, dtype=like.dtype, device=like.device)


def is_zero(value: Hyper) -> bool:
    """Is a hyperparameter switched off? Only a float can be: tensors are not read, and give the same result, slower."""
    return isinstance(value, float) and value == 0.0


def scalar(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A coefficient, ready to meet a leaf: a tensor takes the leaf's dtype, or it would decide the result's."""
    return value.to(like.device, like.dtype) if isinstance(value, Tensor) else value


def scaled_add(a: Tensor, value: float | Tensor, b: Tensor) -> Tensor:
    """a + value * b with one rounding, as torch's `add(alpha=)`, which takes no tensor for alpha."""
    if isinstance(value, Tensor):
        return torch.addcmul(a, value.to(a.device, a.dtype).expand_as(a), b)
    return torch.add(a, b, alpha=value)


def power(base: float | Tensor, exponent: Tensor) -> Tensor:
    """base ** exponent in float64, which the bits of torch's bias correction need (float32 on devices without it)."""
    exponent = exponent.to(precise(exponent.device))
    return torch.pow(base.to(exponent.dtype) if isinstance(base, Tensor) else base, exponent)


def precise(device: torch.device) -> torch.dtype:
    """The widest float of a device: float64, but for Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64


def sqrt(x: Tensor) -> Tensor:
    """The square root with derivative 0 at 0, where the true one is infinite and training's gradient would be nan."""
    if not (x.requires_grad or inside_transform()):
        return torch.sqrt(x)
    zero = x == 0
    return torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, x)))


def device_of(tensors: Tensors) -> torch.device:
    """The device of the first tensor; the CPU where there is none."""
    return next((leaf.device for leaf in tensors.values()), torch.device("cpu"))


def first_step(params: Tensors) -> Tensor:
    """The clock of a fresh state: int64 0, 0-d, on the device of the first parameter."""
    return torch.zeros((), dtype=torch.int64, device=device_of(params))


def zeros_like(params: Tensors) -> dict[str, Tensor]:
    """A memory that begins with zeros, leaf by leaf shaped as `params`."""
    return tmap(torch.zeros_like, params)


def check_params(owner: str, params: Any) -> None:
    """Params are a mapping of names to plain, dense, floating-point or complex tensors; else an error with the fix."""
    if isinstance(params, nn.Module) or not hasattr(params, "items"):
        raise UsageError(
            f"{owner}: params must be a dict of tensors, got {type(params).__name__}; fnopt.params_of(model) makes one"
        )
    for name, leaf in params.items():
        if isinstance(leaf, nn.Parameter):
            raise UsageError(
                f"{owner}: {name!r} is an nn.Parameter, expected a plain tensor; fnopt.params_of(model) makes the copy "
                "that a pure function can own"
            )
        if not (leaf.dtype.is_floating_point or leaf.dtype.is_complex):
            raise StructureError(
                f"{owner}: {name!r} has dtype {leaf.dtype}, expected a floating-point or complex one; a constant "
                "belongs to the buffers"
            )
        if leaf.layout != torch.strided:
            raise StructureError(
                f"{owner}: {name!r} has layout {leaf.layout}, expected a dense tensor; call .to_dense()"
            )


def check_grads(owner: str, grads: Tensors, params: Tensors) -> None:
    """Grads have exactly the names and shapes of params, and are dense; else one error that lists both sides."""
    if grads.keys() != params.keys():
        raise StructureError(
            f"{owner}: grads and params have different names: only in grads {_some(grads.keys() - params.keys())}, "
            f"only in params {_some(params.keys() - grads.keys())}; an unused parameter has a gradient of zeros"
        )
    for name, grad in grads.items():
        if grad.layout != torch.strided:
            raise StructureError(
                f"{owner}: the gradient of {name!r} has layout {grad.layout}, expected a dense one; use "
                "nn.Embedding(sparse=False) or call .to_dense()"
            )
        if grad.shape != params[name].shape:
            raise StructureError(
                f"{owner}: the gradient of {name!r} has shape {list(grad.shape)}, expected {list(params[name].shape)}"
            )


def check_memory(owner: str, flag: str, used: bool, memory: Tensors, params: Tensors) -> None:
    """A state made under one setting of `flag` is not that of another; the structure of a state never changes."""
    if params and used != bool(memory):
        wrong = "needs a memory that this state lacks" if used else "is off, but this state has a memory for it"
        raise StructureError(
            f"{owner}: {flag} {wrong}; a state belongs to one setting of {flag}: call init_state again"
        )


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = sorted(names)
    return f"{listed[:most]}" + (f" and {len(listed) - most} more" if len(listed) > most else "")
