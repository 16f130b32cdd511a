"""What the tests of checkpoints share: drawn states, comparison to the bit, and files that lie but are well sealed."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from fnopt.checkpoint.container import BLANK, DIGEST, DTYPES, Entry, encode
from fnopt.checkpoint.names import flatten
from fnopt.errors import CheckpointError
from fnopt.state import TrainState

KEYS = [
    "",
    ".",
    "..",
    "%",
    "%2F",
    "a/b",
    "a",
    "a\\b",
    "/",
    "//",
    "ü",
    "\0",
    "\n",
    "\ud800",
    '"',
    "layer.weight",
    "__metadata__",
    " ",
]
DRAWN_DTYPES = [dtype for dtype in DTYPES if dtype != torch.complex32]  # torch warns of it as experimental
LAYOUTS = [
    "plain",
    "permuted",
    "channels_last",
    "expanded",
    "every second",
    "conjugate",
    "negated",
    "Parameter",
    "aliased",
]


@st.composite
def leaves(draw: st.DrawFn) -> Tensor:
    """A tensor of any dtype, shape (0-d and empty ones too), layout and bits (nan and subnormal ones too)."""
    layout = draw(st.sampled_from(LAYOUTS))
    lazy = layout in ("conjugate", "negated")  # views that torch computes on access
    dtype = draw(st.sampled_from([dtype for dtype in DRAWN_DTYPES if dtype.is_complex or not lazy]))
    ndim = 4 if layout == "channels_last" else draw(st.integers(2 if layout == "permuted" else 0, 3))
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 2, 3, 3]), min_size=ndim, max_size=ndim))
    tensor = random_bits(shape, dtype, draw(st.integers(0, 10_000)))
    if layout == "permuted":
        tensor = tensor.permute(draw(st.permutations(range(ndim))))
    elif layout == "channels_last":
        tensor = torch.empty_like(tensor, memory_format=torch.channels_last).copy_(tensor)
    elif layout == "expanded":
        tensor = tensor.expand(2, *shape)
    elif layout == "every second" and ndim:
        tensor = tensor[..., ::2]
    elif layout == "conjugate":
        tensor = tensor.conj()
    elif layout == "negated":
        tensor = tensor.conj().imag
    elif layout == "Parameter" and (dtype.is_floating_point or dtype.is_complex):
        tensor = torch.nn.Parameter(tensor)
    elif layout == "aliased":
        tensor = tensor[:] if ndim else tensor.view(())
    return tensor


def random_bits(shape: list[int], dtype: torch.dtype, seed: int) -> Tensor:
    """Uniformly random bits as a tensor."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8, generator=generator)
    return (raw % 2).bool()[..., 0] if dtype == torch.bool else raw.view(dtype)[..., 0]


keys = st.sampled_from(KEYS) | st.text(max_size=5)
trees = st.recursive(
    st.dictionaries(keys, leaves(), max_size=3),
    lambda inner: st.dictionaries(keys, leaves() | inner, max_size=3),
    max_leaves=6,
)


@st.composite
def states(draw: st.DrawFn) -> TrainState:
    """Any TrainState that a checkpoint must hold; some leaves share their storage."""
    params = draw(st.dictionaries(keys, leaves(), max_size=3))
    buffers = draw(st.dictionaries(keys, leaves(), max_size=2))
    if params and draw(st.booleans()):
        buffers["alias"] = next(iter(params.values()))
    return TrainState(
        params=params,
        buffers=buffers,
        opt_state=draw(trees),
        loss_scale=draw(st.just({}) | st.just({"scale": torch.tensor(2.0**16)})),
        updates=torch.tensor(draw(st.integers(0, 2**63 - 1))),
        position=draw(st.integers(0, 2**64 - 1)),
        seed=draw(st.integers(-(2**63), 2**64 - 1)),
        extra=draw(st.dictionaries(keys, leaves(), max_size=2)),
    )


def small_state(seed: int = 0) -> TrainState:
    """A finite state with an optimizer's memory, an empty dict, a channels_last and a complex leaf."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, 2, 2, 2, generator=generator).to(memory_format=torch.channels_last)
    params = {"conv.weight": weight, "z": torch.randn(2, dtype=torch.complex64, generator=generator)}
    return TrainState(
        params=params,
        buffers={"mask": torch.tensor([True, False])},
        opt_state={"step": torch.tensor(3 + seed), "exp_avg": {n: p * 0.1 for n, p in params.items()}, "largest": {}},
        loss_scale={"scale": torch.tensor(2.0**16), "skipped": torch.tensor(1)},
        updates=torch.tensor(3 + seed),
        position=4 + seed,
        seed=7,
        extra={},
    )


def flat_bytes(tensor: Tensor) -> bytes:
    """The entries of a tensor, row-major, as bytes."""
    plain = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return bytes(plain.reshape(-1).view(torch.uint8).tolist())


def bits(tensor: Tensor) -> tuple[object, ...]:
    """All that is to survive a save: dtype, shape, the strides of a copy, and the bytes."""
    return tensor.dtype, tuple(tensor.shape), tensor.detach().clone().stride(), flat_bytes(tensor)


def fingerprint(state: TrainState) -> list[object]:
    """A value that two states share exactly if they are equal to the bit, key order included."""
    named = flatten("test", state)
    return [state.position, state.seed, *((n, None if leaf is None else bits(leaf)) for n, leaf in named.items())]


def resealed(data: bytes, change: Callable[[dict[str, Any], list[Entry]], None]) -> bytes:
    """A file that lies, but whose digest is right: what only a hostile or a later writer makes."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    document = json.loads(header.pop("__metadata__")["fnopt"])
    entries = [Entry(name, item["dtype"], tuple(item["shape"])) for name, item in header.items()]
    change(document, entries)
    return sealed(encode(json.dumps(document, sort_keys=True, separators=(",", ":")), entries) + data[8 + length :])


def sealed(data: bytes) -> bytes:
    """The same file with the digest that belongs to it."""
    blank = data[: DIGEST.start] + BLANK.encode() + data[DIGEST.stop :]
    return blank[: DIGEST.start] + hashlib.sha256(blank).hexdigest().encode() + blank[DIGEST.stop :]


def fields_of(error: CheckpointError) -> list[str]:
    """All that an error says in its fields."""
    return [error.path, error.item, error.expected, error.found, error.hint]


def left_in(folder: Path) -> Iterator[str]:
    """The names in a folder."""
    return (path.name for path in folder.iterdir())
