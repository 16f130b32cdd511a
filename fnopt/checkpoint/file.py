"""Checkpoints: one safetensors file by name, strict, atomic and durable, in which no bit can change unnoticed."""

import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import NonFiniteError, StructureError
from ..state import TrainState
from .container import DIGEST, Entry, decode, encode, excess, memory
from .document import JSON, describe, parse
from .fs import DISK, Fs, Output, write_atomically
from .mismatch import check_clocks, check_match
from .names import flatten, rebuild
from .reader import opened


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
    leaves = flatten("save_checkpoint", state)
    document = describe(state, leaves, info)
    # Widest dtype first, so that every tensor is aligned where the file is mapped into memory: torch reads complex128
    # with instructions that fault at 8 bytes.
    tensors = [(name, leaf) for name, leaf in leaves.items() if leaf is not None]
    tensors.sort(key=lambda item: -item[1].dtype.itemsize)
    entries = [Entry.of(name, tensor) for name, tensor in tensors]
    header = encode(document.encode(), entries)
    size = len(header) + sum(entry.nbytes for entry in entries)
    if too_much := excess(header, size):
        raise StructureError(f"save_checkpoint: this state needs {too_much}; pack small tensors, or shorten info")

    def fill(output: Output) -> None:
        sha = hashlib.sha256(header)
        output.write(header)
        for _, tensor in tensors:
            plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
            data = memory(plain)
            sha.update(data)
            output.write(data)
        output.write_at(DIGEST.start, sha.hexdigest().encode())

    write_atomically(path, fill, size, fs)
    return Path(path)


def load_checkpoint(path: str | os.PathLike[str], like: TrainState, *, allow_nonfinite: bool = False) -> TrainState:
    """The state in a file, with exactly the structure of `like`, each tensor on the device of its leaf there.

    Tensors are matched by name; dtypes, shapes and empty dicts must be equal too. Nothing of `like` is changed, and
    only its structure matters: `step.init_state(model)` gives one. No code in a file can run, and none costs more
    memory than its size and 64 MB.

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
    wanted = flatten("load_checkpoint", like)
    values: dict[str, Tensor] = {}
    nonfinite: list[str] = []
    negative: dict[str, int] = {}
    with opened(path) as reader:
        with reader.doubting():
            text, entries = decode(reader.path, reader.header, reader.size)
            document = parse(reader.path, text)
            check_match(reader.path, document, entries, wanted)
        for entry in entries:
            name, leaf = entry.name, wanted[entry.name]
            assert leaf is not None
            value = torch.empty(leaf.shape, dtype=leaf.dtype, device="cpu")
            reader.read(memory(value))
            if name.startswith(("params/", "opt_state")) and not _finite(value):
                nonfinite.append(name)
            if _is_clock(name, value) and value.numel() and (lowest := int(value.min())) < 0:
                negative[name] = lowest
            values[name] = _arranged(value, document.strides.get(name)).to(leaf.device)
        reader.verify()
    check_clocks(reader.path, negative)
    if nonfinite and not allow_nonfinite:
        raise NonFiniteError(
            f"{reader.path} is of a run that diverged: {len(nonfinite)} tensors hold a nan or an infinity: "
            f"{', '.join(nonfinite[:5])}; load an older one, or pass allow_nonfinite=True"
        )
    return rebuild(like, values, document.position, document.seed)


def read_info(path: str | os.PathLike[str], *, verify: bool = True) -> dict[str, Any]:
    """What a checkpoint says about itself: `info`, `position`, `seed`, `updates` and `environment`; no tensors.

    `environment` has the versions of fnopt, torch and python that wrote it, and torch's number of `threads`. The file
    is read once, in pieces, to verify its digest; with `verify=False` only its header is, and nothing is promised.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = save_checkpoint(Path(folder.name, "step.safetensors"), TrainState.of({}, seed=7), {"best_loss": 0.5})
    >>> found = read_info(path)
    >>> found["info"], found["seed"], found["updates"]
    ({'best_loss': 0.5}, 7, 0)
    >>> folder.cleanup()

    Raises as `load_checkpoint` does, but for what it would find in the tensors.
    """
    with opened(path) as reader:
        with reader.doubting():
            text, _ = decode(reader.path, reader.header, reader.size)
            document = parse(reader.path, text)
        if verify:
            reader.verify()
    return {name: getattr(document, name) for name in ("info", "position", "seed", "updates", "environment")}


def _finite(tensor: Tensor) -> bool:
    """Is every entry finite? Without a temporary of the tensor's size, but for 8-bit floats."""
    real = torch.view_as_real(tensor) if tensor.dtype.is_complex else tensor
    if not real.dtype.is_floating_point or not real.numel():
        return True
    lowest, highest = torch.aminmax(real.float() if real.dtype.itemsize == 1 else real)
    return math.isfinite(lowest.item()) and math.isfinite(highest.item())


def _is_clock(name: str, tensor: Tensor) -> bool:
    signed = not (tensor.dtype.is_floating_point or tensor.dtype.is_complex) and tensor.dtype.is_signed
    return signed and (name == "updates" or (name.startswith("opt_state/") and name.endswith("/step")))


def _arranged(value: Tensor, stride: list[int] | None) -> Tensor:
    """A row-major tensor with other strides."""
    if stride is None:
        return value
    return torch.empty_strided(value.shape, stride, dtype=value.dtype, device=value.device).copy_(value)
