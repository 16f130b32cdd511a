"""The one file that touches torch's private names; each entry says why, and tests/test_torch_names.py what is missing.

- `torch.utils._pytree`: torch 2.13 has no public pytree module, and `torch.func` and `make_fx` use this one.
- `torch.linalg.vector_norm` is public, but has no type.
- `torch._C._functorch.maybe_current_level`: whether a functorch transform (grad, vmap, jvp) is running. Inside one,
  `torch.autograd.grad` would not see the transform's graph; outside one, `torch.func.vjp` costs twice as much.
- `Tensor._version`: how often a tensor was written in place, which tells a loss that is not pure.
- `UntypedStorage._cdata`: which memory a tensor lies in, also of a fake one, which has no address.
- `make_fx` (of torch.fx.experimental), `torch._subclasses.FakeTensorMode`, `ShapeEnv`: a trace without memory. There is
  no public way to trace a function of tensors that is not a module.
- `torch._inductor.compile`: the compiler behind torch.compile, without Dynamo and its guards; `torch._guards.tracing`
  gives it the fake mode of the trace, and `torch._inductor.config.fallback_random` the random numbers of eager.
- `Tensor._make_wrapper_subclass` and `_disabled_torch_function_impl`: a tensor that sees each operation on it.
- `torch._C._len_torch_dispatch_stack`: whether a mode, such as a trace, sees each operation.
- `torch._disable_dynamo`: as torch.compiler.disable, which would import all of Dynamo at once.
- `torch._foreach_copy_`: many tensors in one call, which has no public name.
- `Optimizer._init_group` and `_get_capturable_supported_devices`: how torch's classes begin their state.
- `torch._functorch.compile_utils.fx_graph_cse`: common subexpressions of a graph, which passes compare.
"""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportAttributeAccessIssue=false

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch.utils import _pytree

F = TypeVar("F", bound=Callable[..., Any])


def register_pytree(cls: type, flatten: Callable[[Any], tuple[list[Any], Any]], rebuild: Callable[..., Any]) -> None:
    """Make `cls` a pytree node: `flatten(x) -> (children, context)`, `rebuild(children, context) -> x`."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    _pytree.register_pytree_node(cls, flatten, rebuild, serialized_type_name=name)


def tree_map(fn: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """`fn` on every leaf of a pytree; `others` must have its structure."""
    return _pytree.tree_map(fn, tree, *others)


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of a pytree, in its order."""
    return _pytree.tree_leaves(tree)


def tree_flatten(tree: Any) -> tuple[list[Any], Any]:
    """The leaves of a pytree and its structure, which compares with `==`."""
    return _pytree.tree_flatten(tree)


def tree_unflatten(leaves: Sequence[Any], structure: Any) -> Any:
    """The pytree of that structure with these leaves."""
    return _pytree.tree_unflatten(leaves, structure)


def inside_transform() -> bool:
    """Is a functorch transform (grad, vmap, jvp, …) running right now?"""
    return torch._C._functorch.maybe_current_level() is not None


def traced() -> bool:
    """Is somebody looking at the operations, who must see those on the tensors themselves (make_fx, vmap, Dynamo)?"""
    return torch._C._len_torch_dispatch_stack() > 0 or torch.compiler.is_compiling() or inside_transform()


def version(tensor: torch.Tensor) -> int:
    """How often the memory of a tensor was written in place; 0 for an inference tensor, which does not count."""
    return 0 if tensor.is_inference() else tensor._version


def memory_of(tensor: torch.Tensor) -> int:
    """A number that two living tensors share if one is a view of the other, or both of a third."""
    return tensor.untyped_storage()._cdata


def vector_norm(
    x: torch.Tensor, dtype: torch.dtype | None = None, dim: int | tuple[int, ...] | None = None
) -> torch.Tensor:
    """The Euclidean norm, real: of all entries, 0-d, or along `dim`, which stays; `dtype` is what is computed in."""
    return torch.linalg.vector_norm(x, dim=dim, keepdim=dim is not None, dtype=dtype)


def not_compiled(fn: F) -> F:
    """Let torch.compile call `fn` and not look into it."""
    return cast(F, torch._disable_dynamo(fn))


def split(tensor: torch.Tensor, sizes: int | Sequence[int]) -> tuple[torch.Tensor, ...]:
    """The parts of a tensor of these lengths; the method is public, but has no type."""
    parts: Any = tensor.split(sizes)
    return tuple(parts)


def foreach_copy(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Each source into its target, in one call."""
    torch._foreach_copy_(list(targets), list(sources))


def capturable_devices() -> list[str]:
    """The kinds of device on which torch lets an optimizer with capturable=True step."""
    from torch.optim.optimizer import _get_capturable_supported_devices

    return _get_capturable_supported_devices()


def init_group(optimizer: Any, group: Any) -> None:
    """torch's own lazy state for the parameters of a group that have a gradient, with torch's own errors."""
    lists = len(inspect.signature(optimizer._init_group).parameters) - 1
    optimizer._init_group(group, *([] for _ in range(lists)))


def trace(
    fn: Callable[..., list[torch.Tensor]], inputs: Sequence[torch.Tensor], symbolic: int = 0
) -> tuple[torch.fx.GraphModule, Any]:
    """The graph of `fn(*inputs)`, and the fake inputs that it was traced on; needs no memory and no time of a device.

    The first `symbolic` inputs may have any length (those that are as long as another stay so). A tensor that `fn`
    closes over is an attribute of the graph module.
    """
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fakes = [mode.from_tensor(leaf, static_shapes=place >= symbolic) for place, leaf in enumerate(inputs)]
    with mode, torch.no_grad():
        return make_fx(fn, tracing_mode="real")(*fakes), fakes


def compile_graph(graph: torch.fx.GraphModule, fakes: Sequence[Any]) -> Callable[..., list[torch.Tensor]]:
    """The graph as kernels, for inputs of the shapes, dtypes, strides and devices of these fake ones."""
    import torch._inductor
    from torch._guards import TracingContext, tracing

    mode = fakes[0].fake_mode
    settings = torch._inductor.config.patch(fallback_random=True)
    with tracing(TracingContext(mode)), torch.no_grad(), settings, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever does not compile ends in one warning of fnopt's own
        compiled: Any = torch._inductor.compile(graph, list(fakes))
    return compiled


def _value_of(arg: Any) -> Any:
    return arg.value if isinstance(arg, Watched) else arg


class Watched(torch.Tensor):
    """A tensor that tells `note(operation, args, kwargs, output)` every operation on it, in its normal form.

    The result of the operation is what `note` returns. Operations that touch no watched tensor run as always.
    """

    value: torch.Tensor
    note: Callable[..., Any]
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @staticmethod
    def of(value: torch.Tensor, note: Callable[..., Any]) -> "Watched":
        """The watched form of a plain tensor."""
        made: Any = torch.Tensor._make_wrapper_subclass(Watched, value.shape, dtype=value.dtype, device=value.device)
        made.value, made.note = value, note
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat = tree_leaves((args, kwargs))
        note = next(arg.note for arg in flat if isinstance(arg, Watched))
        plain, named = tree_map(_value_of, (args, kwargs))
        return note(func, args, kwargs, func(*plain, **named))


def fake_like(tensor: torch.Tensor, fakes: Sequence[Any]) -> Any:
    """One more fake input, of the mode of the others."""
    return fakes[0].fake_mode.from_tensor(tensor, static_shapes=True)


def common_subexpressions(graph: torch.fx.Graph) -> torch.fx.Graph:
    """The graph with every value computed once; random operations stay apart."""
    from torch._functorch.compile_utils import fx_graph_cse

    return fx_graph_cse(graph)


@cache
def gather() -> Any:
    """`torch.cat` as an operation that Inductor calls and does not look into."""

    def pack(parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(parts)

    made: Any = torch.library.custom_op("fnopt::gather", pack, mutates_args=(), schema="(Tensor[] parts) -> Tensor")
    made.register_fake(pack)
    return torch.ops.fnopt.gather.default
