"""Checkpoints: one safetensors file by name, strict, atomic and durable, in which no bit can change unnoticed."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from ..errors import StructureError
from ..state import TrainState
from .accept import Accepted
from .container import DIGEST, Entry, decode, encode, excess, memory
from .document import JSON, Document, describe, parse
from .environment import check_exact
from .fs import DISK, Fs, Output, write_atomically
from .mismatch import check_match
from .names import flatten
from .reader import Reader, is_archive, opened
from .torch_import import load_torch


@attrs.frozen
class Encoded:
    """A state on its way to a file: checked, named, and in the order of the file."""

    header: bytes
    tensors: list[Tensor]
    position: int

    @property
    def size(self) -> int:
        """The bytes of the file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)

    def copied(self) -> "Encoded":
        """The same with tensors of its own, on the CPU: nothing that is done to the state can change it any more."""
        return attrs.evolve(self, tensors=[tensor.detach().to("cpu", copy=True) for tensor in self.tensors])

    def write(self, path: Path, fs: Fs) -> None:
        """The file, whole and durable, or CheckpointWriteError and the old one."""

        def fill(output: Output) -> None:
            sha = hashlib.sha256(self.header)
            output.write(self.header)
            for tensor in self.tensors:
                plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
                data = memory(plain)
                sha.update(data)
                output.write(data)
            output.write_at(DIGEST.start, sha.hexdigest().encode())

        write_atomically(path, fill, self.size, fs)


def encode_state(
    owner: str, state: TrainState, info: Mapping[str, JSON] | None, metric: float | None = None, serial: int = 0
) -> Encoded:
    """A state as it will be written; UsageError and StructureError, with the name of the item, for what cannot be."""
    leaves = flatten(owner, state)
    document = describe(state, leaves, info, metric, serial)
    # Widest dtype first, so that every tensor is aligned where the file is mapped into memory: torch reads complex128
    # with instructions that fault at 8 bytes.
    tensors = [(name, leaf) for name, leaf in leaves.items() if leaf is not None]
    tensors.sort(key=lambda item: -item[1].dtype.itemsize)
    header = encode(document.encode(), [Entry.of(name, tensor) for name, tensor in tensors])
    encoded = Encoded(header, [tensor for _, tensor in tensors], state.position)
    if too_much := excess(header, encoded.size):
        raise StructureError(f"{owner}: this state needs {too_much}; pack small tensors, or shorten info")
    return encoded


def save_checkpoint(
    path: str | os.PathLike[str], state: TrainState, info: Mapping[str, JSON] | None = None, *, fs: Fs = DISK
) -> Path:
    """Write a state to one safetensors file, atomically: `path` is the old file or the new one, whatever happens.

    When this returns, the file is on the medium. It is a function of state, info and environment: no time stamp.
    Tensors keep dtype, shape and strides; those that share memory, or are views with gaps, are written out in full.
    `info` is any JSON of yours (a config, the best loss, `repr(optimizer)`), for `read_info`; a tuple becomes a list.
    `fs` makes the system calls; tests put one in that fails.

    >>> import safetensors.torch, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> state = TrainState.of({"w": torch.ones(2)}, seed=7)
    >>> path = save_checkpoint(Path(folder.name, "step.safetensors"), state, {"best_loss": 0.5})
    >>> load_checkpoint(path, like=state) == state, safetensors.torch.load_file(path)["params/w"]
    (True, tensor([1., 1.]))
    >>> folder.cleanup()

    Raises CheckpointWriteError with the errno of the system, UsageError and StructureError for a state or info
    that cannot be stored, with the name of the item.
    """
    encode_state("save_checkpoint", state, info).write(Path(path), fs)
    return Path(path)


def load_checkpoint(
    path: str | os.PathLike[str], like: TrainState, *, allow_nonfinite: bool = False, exact: bool = False
) -> TrainState:
    """The state in a file, with exactly the structure of `like`, each tensor on the device of its leaf there.

    Tensors are matched by name; dtypes, shapes and empty dicts must be equal too. Nothing of `like` is changed, and
    only its structure matters: `step.init_state(model)` gives one. No code in a file can run, and none costs more
    memory than its size and 64 MB. A `.pt` with the keys model, optimizer and step is read too (docs/design.md).
    `exact` refuses a file from another environment (torch, threads, device, CPU kernels, world size), in which the run
    would go on, but not to the bit.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = save_checkpoint(Path(folder.name, "step.safetensors"), TrainState.of({"w": torch.ones(2)}))
    >>> load_checkpoint(path, like=TrainState.of({"w": torch.ones(3)}))         # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fnopt.errors.StateMismatchError: ...step.safetensors is not of this state: 1 shape: params/w [2] not [3]; ...
    >>> folder.cleanup()

    Raises CheckpointNotFoundError, NotACheckpointError, CheckpointReadError; CheckpointCorruptError if one bit is not
    as written; CheckpointVersionError for a newer schema; UnsafeCheckpointError; StateMismatchError with all
    differences; NonFiniteError for a nan or an infinity in params or opt_state, unless `allow_nonfinite`.
    """
    return load_file(path, like, allow_nonfinite, exact)[0]


def load_file(
    path: str | os.PathLike[str], like: TrainState, allow_nonfinite: bool = False, exact: bool = False
) -> tuple[TrainState, dict[str, Any]]:
    """What `load_checkpoint` gives, and the environment that the file is from; empty if it does not say."""
    wanted = flatten("load_checkpoint", like)
    if is_archive(path):
        if exact:
            check_exact(str(path), {}, like)
        return load_torch(path, like, wanted, allow_nonfinite), {}
    with opened(path) as reader:
        with reader.doubting():
            document, entries = _described(reader)
            check_match(reader.path, document, entries, wanted)
            if exact:
                check_exact(reader.path, document.environment, like)
        accepted = Accepted(reader.path)
        for entry in entries:
            leaf = wanted[entry.name]
            assert leaf is not None
            value = torch.empty(leaf.shape, dtype=leaf.dtype, device="cpu")
            reader.read(memory(value))
            accepted.take(entry.name, _arranged(value, document.strides.get(entry.name)), leaf.device)
        reader.verify()
    return accepted.state(like, document.position, document.seed, allow_nonfinite), document.environment


def read_info(path: str | os.PathLike[str], *, verify: bool = True) -> dict[str, Any]:
    """What a checkpoint says of itself: `info`, `position`, `seed`, `updates`, `metric`, `environment`; no tensors.

    `environment` has the versions of fnopt, torch and python that wrote it, torch's number of `threads`, the `device`
    of the params, the `cpu` kernels that torch chose, and the `world_size`. The file is read once, in pieces, to verify
    its digest; with `verify=False` only its header is, and nothing is promised.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = save_checkpoint(Path(folder.name, "step.safetensors"), TrainState.of({}, seed=7), {"best_loss": 0.5})
    >>> found = read_info(path)
    >>> found["info"], found["seed"], found["updates"]
    ({'best_loss': 0.5}, 7, 0)
    >>> folder.cleanup()

    Raises as `load_checkpoint` does, but for what it would find in the tensors.
    """
    document, _ = read_header(path, verify=verify)
    return {name: getattr(document, name) for name in ("info", "position", "seed", "updates", "metric", "environment")}


def read_header(path: str | os.PathLike[str], *, verify: bool) -> tuple[Document, list[Entry]]:
    """The document of a checkpoint, and its tensors as they are described; errors as of `read_info`."""
    with opened(path) as reader:
        with reader.doubting():
            found = _described(reader)
        if verify:
            reader.verify()
    return found


def _described(reader: Reader) -> tuple[Document, list[Entry]]:
    text, entries = decode(reader.path, reader.header, reader.size)
    return parse(reader.path, text), entries


def _arranged(value: Tensor, stride: list[int] | None) -> Tensor:
    """A row-major tensor with other strides."""
    if stride is None:
        return value
    return torch.empty_strided(value.shape, stride, dtype=value.dtype, device=value.device).copy_(value)
