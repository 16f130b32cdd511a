"""All Hypothesis strategies of the laws.

A byte is one number, looked up in a table of 256 that begins with the simplest. So a tensor is one draw (a list of
`st.floats` costs ten times as much), it replays, and it shrinks towards zeros and ones. Every leaf draws the bytes of
the largest one, for params and all gradients, and uses a prefix: shrinking a shape then keeps the numbers.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, cast

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from .._torch import tree_leaves
from ..errors import UsageError
from ..state import buffers_of, params_of
from ..tensors import tensor_map, wide
from ..types import Tensors
from .case import Calls, Case, Steps

Values: TypeAlias = Literal["any", "finite", "tame", "calm"]
Shape: TypeAlias = tuple[int, ...]
Leaf: TypeAlias = tuple[Shape, bool, torch.dtype, list[bytes]]  # the bool: whether a matrix is stored transposed

DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.float16)
SHAPES: tuple[Shape, ...] = ((), (1,), (3,), (0,), (2, 3))
NAMES = ("w", "b", "layers.0.weight")  # in no order that sorting would keep
MOST_UPDATES = 3
ROW = 64  # numbers drawn for the params of a model, and for its batches: larger tensors repeat them


class Drawn(TypedDict, total=False):
    """How cases are drawn: which `names` (all of them appear), from which `shapes` and `dtypes`.

    For a GradFn or a step: around which `model` (a module, or a dict of params), and like which `batch`.
    """

    names: Sequence[str]
    shapes: Sequence[Shape]
    dtypes: Sequence[torch.dtype]
    model: nn.Module | Tensors
    batch: Any


def tensors(
    *, shapes: Sequence[Shape] = SHAPES, dtypes: Sequence[torch.dtype] = DTYPES, values: Values = "any"
) -> st.SearchStrategy[Tensor]:
    """Small tensors: 0-d, empty, transposed, of each of these dtypes.

    "calm" values are 0 and ordinary numbers from 0.001 to 100; "tame" adds -0.0 and subnormal numbers, "finite" huge
    ones up to the largest of the dtype, "any" nan and the infinities.
    """
    return _leaves(shapes, dtypes, copies=1).map(lambda leaf: _tensors(leaf, values, wider=False)[0])


def cases(*, values: Values = "any", **drawn: Unpack[Drawn]) -> st.SearchStrategy[Case]:
    """Params, and gradients for one to three updates, in the dtype of params or float32 and wider.

    With `names=` there is one leaf for each, else none to three; `shapes=`, `dtypes=` and `values` as in `tensors`.

    >>> from hypothesis import given, settings
    >>> @settings(database=None)
    ... @given(cases(names=("w",), values="tame"))
    ... def test_my_own(case):
    ...     assert case.params.keys() == case.grads[0].keys() == {"w"}
    >>> test_my_own()
    """
    names = drawn.get("names")
    leaf = _leaves(drawn.get("shapes", SHAPES), drawn.get("dtypes", DTYPES), copies=1 + MOST_UPDATES)
    leaves = st.lists(leaf, max_size=len(NAMES)) if names is None else st.tuples(*[leaf] * len(names))

    def build(leaves: Sequence[Leaf], updates: int, wider: bool) -> Case:
        held = zip(NAMES if names is None else names, (_tensors(leaf, values, wider) for leaf in leaves), strict=False)
        named = dict(held)
        grads = [{name: leaf[update] for name, leaf in named.items()} for update in range(1, 1 + updates)]
        return Case({name: leaf[0] for name, leaf in named.items()}, grads)

    return st.builds(build, leaves, st.integers(1, MOST_UPDATES), st.booleans())


def calls(**drawn: Unpack[Drawn]) -> st.SearchStrategy[Calls]:
    """Params near those of the model, a seed, and one to three batches like the one given.

    Params move by up to 1, buffers stay. Floating-point tensors of a batch are "calm", others repeat values of theirs.

    >>> from hypothesis import given, settings
    >>> @settings(database=None)
    ... @given(calls(model={"w": torch.ones(2)}, batch=torch.zeros(3)))
    ... def test_my_own(case):
    ...     assert case.params["w"].shape == (2,) and all(batch.shape == (3,) for batch in case.batches)
    >>> test_my_own()

    Raises UsageError without `model` and `batch`.
    """
    given = sample_calls(**drawn)
    params, buffers, (batch,) = given.params, given.buffers, given.batches
    values: dict[int, Tensor] = {
        id(leaf): cast(Any, leaf).unique() for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.numel()
    }

    def like(leaf: Tensor, row: bytes) -> Tensor:
        if not leaf.numel():
            return leaf
        return _repeated(leaf, row) if leaf.is_floating_point() else _chosen(values[id(leaf)], leaf.shape, row)

    def build(row: bytes, rows: list[bytes], seed: int) -> Calls:
        near = {
            name: (leaf + _repeated(leaf, row[place:] + row[:place]) / 100).to(leaf.dtype)
            for place, (name, leaf) in enumerate(params.items())
        }
        return Calls(near, [tensor_map(partial(like, row=row), batch) for row in rows], buffers, seed)

    row = st.binary(min_size=ROW, max_size=ROW)
    return st.builds(build, row, st.lists(row, min_size=1, max_size=MOST_UPDATES), st.integers(0, 9))


def sample(**drawn: Unpack[Drawn]) -> dict[str, Tensor]:
    """Params of zeros, to ask a thing what it is about."""
    shape, dtype = drawn.get("shapes", SHAPES)[-1], drawn.get("dtypes", DTYPES)[0]
    return {name: torch.zeros(shape, dtype=dtype) for name in drawn.get("names", NAMES)}


def sample_calls(**drawn: Unpack[Drawn]) -> Calls:
    """One call, of the model and the batch as they were given."""
    if "model" not in drawn or "batch" not in drawn:
        raise UsageError("laws: a GradFn or a step needs model= (or its params) and batch=, one that it takes")
    model, batch = drawn["model"], drawn["batch"]
    if isinstance(model, nn.Module):
        return Calls(params_of(model), [batch], buffers_of(model))
    return Calls(dict(model), [batch])


def steps() -> st.SearchStrategy[Steps]:
    """One to five numbers of updates, near the beginning, in the middle and for ever after."""
    step = st.one_of(st.integers(0, 20), st.integers(0, 5_000), st.sampled_from([10**6, 2**40]))
    return st.lists(step, min_size=1, max_size=5).map(Steps)


def _leaves(shapes: Sequence[Shape], dtypes: Sequence[torch.dtype], copies: int) -> st.SearchStrategy[Leaf]:
    size = 2 * max(torch.Size(shape).numel() for shape in shapes)  # two for each entry, if it were complex
    drawn = st.binary(min_size=size * copies, max_size=size * copies)
    rows = drawn.map(lambda row: [row[size * copy : size * (copy + 1)] for copy in range(copies)])
    return st.tuples(st.sampled_from(shapes), st.booleans(), st.sampled_from(dtypes), rows)


def _tensors(leaf: Leaf, values: Values, wider: bool) -> list[Tensor]:
    """The param, and its gradients."""
    shape, transposed, dtype, rows = leaf
    dtypes = [dtype, *[wide(dtype) if wider else dtype] * (len(rows) - 1)]
    return [_tensor(shape, transposed, kind, row, values) for kind, row in zip(dtypes, rows, strict=True)]


def _tensor(shape: Shape, transposed: bool, dtype: torch.dtype, row: bytes, values: Values) -> Tensor:
    real, pair = (dtype.to_real(), (2,)) if dtype.is_complex else (dtype, ())
    table = _table(real, values)
    made = torch.tensor([table[byte] for byte in row[: torch.Size(shape + pair).numel()]], dtype=real)
    made = made.reshape(shape + pair)
    made = torch.view_as_complex(made) if pair else made
    return made.mT.contiguous().mT if transposed and len(shape) == 2 else made


def _repeated(leaf: Tensor, row: bytes) -> Tensor:
    """Calm numbers shaped as the leaf, those of the row over and over."""
    real = leaf.dtype.to_real() if leaf.dtype.is_complex else leaf.dtype
    table = torch.tensor(_table(real, "calm"), dtype=real)
    return _chosen(table, leaf.shape, row).to(leaf.dtype)


def _chosen(values: Tensor, shape: torch.Size, row: bytes) -> Tensor:
    places = torch.tensor(list(row))[torch.arange(shape.numel()) % len(row)]
    return values[places % len(values)].reshape(shape)


@cache
def _table(dtype: torch.dtype, values: Values) -> list[float]:
    """256 numbers, simplest first; about a tenth of them at the edge of what the dtype holds."""
    info = torch.finfo(dtype)
    subnormal = info.smallest_normal * info.eps
    simple = [0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, 0.1, -0.1, 10.0, -10.0, 100.0, -100.0]
    edges = [
        -0.0,
        info.eps,
        -info.eps,
        info.smallest_normal,
        -info.smallest_normal,
        subnormal,
        -subnormal,
        3 * subnormal,
    ]
    root = info.max**0.5
    huge = [root, -root, 2 * root, -2 * root, info.max, info.max, -info.max, info.max / 2, -info.max / 3]
    infinite = [torch.nan, torch.inf, -torch.inf]
    special = [edges, huge, infinite * 3][: ["calm", "tame", "finite", "any"].index(values)]
    rare = [value for kind in special for value in kind]
    count = 256 - len(simple) - len(rare)
    ordinary = [(-1) ** k * (1 + k * 0.618034 % 1) * 2.0 ** (k * 7 % 16 - 10) for k in range(count)]
    return [*simple, *ordinary, *rare]
