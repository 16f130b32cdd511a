"""P4: files with one bit flipped, cut off, or with blocks zeroed or swapped: who notices?"""

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from checkpoint_cases import fingerprint, small_state
from safetensors.torch import load_file, save_file
from verdict import Verdict
from ways import as_dict

import fnopt
from fnopt.checkpoint.container import memory
from fnopt.errors import CheckpointError
from fnopt.state import TrainState

Load = Callable[[Path], Any]


def damaged(data: bytes, flips: int, cuts: int, blocks: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """So many of each kind of damage, at random places."""
    chance = random.Random(seed)
    for _ in range(flips):
        at = chance.randrange(len(data))
        yield "flip", data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
    for _ in range(cuts):
        yield "cut", data[: chance.randrange(len(data))]
    while blocks:
        broken, size = bytearray(data), chance.choice([8, 64, 256])
        a, b = chance.randrange(len(data) - size), chance.randrange(len(data) - size)
        if chance.random() < 0.5:
            broken[a : a + size] = bytes(size)
        else:
            broken[a : a + size], broken[b : b + size] = data[b : b + size], data[a : a + size]
        if broken != data:
            blocks -= 1
            yield "block", bytes(broken)


def fnopt_files(flips: int, cuts: int, blocks: int) -> Verdict:
    """Every load of a damaged file is a CheckpointError; one that passes is a failure even if nothing came of it."""
    verdict = Verdict(facts=dict.fromkeys(("flip", "cut", "block", "silent"), 0))
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        path = fnopt.save_checkpoint(Path(folder) / "a", _state())
        for kind, data in damaged(path.read_bytes(), flips, cuts, blocks):
            path.write_bytes(data)
            verdict.facts[kind] += 1
            try:
                fnopt.load_checkpoint(path, _state())
            except CheckpointError:
                verdict.check(True, "")
                continue
            except Exception as error:
                verdict.check(False, f"{kind}: raised {error!r}")
                continue
            verdict.facts["silent"] += 1
            verdict.check(False, f"a {kind} passed")
    return verdict


def good_files(loads: int) -> Verdict:
    """Files with nothing wrong load, to the bit."""
    verdict = Verdict()
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        for seed in range(loads):
            path = fnopt.save_checkpoint(Path(folder) / "a", small_state(seed), {"seed": seed})
            try:
                same = fingerprint(fnopt.load_checkpoint(path, small_state())) == fingerprint(small_state(seed))
            except CheckpointError:
                same = False
            verdict.check(same, f"an alarm at the good file {seed}")
    return verdict


def silent(peer: str, flips: int, cuts: int, blocks: int) -> Verdict:
    """How many damaged files of a peer load without an error and are something else than was saved (`silent`), or as
    saved (`harmless`: the damage was in a part that it does not read).
    """
    verdict = Verdict(facts={"silent": 0, "harmless": 0})
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        path, load = PEERS[peer](Path(folder))
        good = load(path)
        for _, data in damaged(path.read_bytes(), flips, cuts, blocks):
            path.write_bytes(data)
            try:
                found = load(path)
            except BaseException as error:  # the error of DCP is none of Exception
                if isinstance(error, KeyboardInterrupt):
                    raise
                verdict.check(True, "")
                continue
            same = _same(found, good)
            verdict.count("harmless" if same else "silent")
            verdict.check(same, "silent")
    return verdict


def _same(found: Any, good: dict[str, torch.Tensor]) -> bool:
    if not isinstance(found, dict) or found.keys() != good.keys():
        return False
    return all(
        leaf.dtype == found[name].dtype and leaf.shape == found[name].shape and _bytes(leaf) == _bytes(found[name])
        for name, leaf in good.items()
    )


def _bytes(leaf: torch.Tensor) -> bytes:
    return bytes(memory(leaf.contiguous()))


def _torch_file(folder: Path) -> tuple[Path, Load]:
    torch.save(as_dict(_state()), folder / "a.pt")
    return folder / "a.pt", lambda path: torch.load(path, weights_only=True)


def _safetensors_file(folder: Path) -> tuple[Path, Load]:
    save_file({name: leaf.contiguous() for name, leaf in as_dict(_state()).items()}, folder / "a.safetensors")
    # a copy: what load_file gives is the file itself, mapped into memory
    return folder / "a.safetensors", lambda path: {name: leaf.clone() for name, leaf in load_file(path).items()}


def _distributed_file(folder: Path) -> tuple[Path, Load]:
    from torch.distributed import checkpoint

    checkpoint.save(as_dict(_state()), checkpoint_id=folder, no_dist=True)

    def load(path: Path) -> dict[str, torch.Tensor]:
        held = {name: torch.zeros_like(leaf) for name, leaf in as_dict(_state()).items()}
        checkpoint.load(held, checkpoint_id=folder, no_dist=True)
        return held

    return next(folder.glob("*.distcp")), load


def _state() -> TrainState:
    """64 KB, so that the share of bytes that are numbers is as in real files; no complex ones for safetensors."""
    return TrainState.of({"w": torch.randn(128, 128, generator=torch.Generator().manual_seed(0)), "b": torch.ones(9)})


PEERS: dict[str, Callable[[Path], tuple[Path, Load]]] = {
    "torch.load": _torch_file,
    "safetensors": _safetensors_file,
    "DCP": _distributed_file,
}


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
