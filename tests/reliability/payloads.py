"""P6: files that carry code. Wherever fnopt reads a file, none of it runs."""

import contextlib
import io
import os
import pickle
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from checkpoint_cases import resealed, sealed
from manager_cases import LIKE, at
from verdict import Verdict

import fnopt
from fnopt.checkpoint import read_info
from fnopt.cli import main


class Payload:
    """A pickle of it touches a file when it is loaded."""

    def __init__(self, call: Callable[..., Any], *arguments: Any):
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


def kinds(marker: Path) -> dict[str, Payload]:
    """Ways to run code from a pickle."""
    return {
        "os.system": Payload(os.system, f"touch {marker}"),
        "exec": Payload(exec, f"open({str(marker)!r}, 'w').close()"),
        "os.mknod": Payload(os.mknod, str(marker)),
        "Path.touch": Payload(Path.touch, marker),
    }


def files(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Files with a payload, by what they are."""
    good = _good()
    for kind, payload in kinds(marker).items():
        for protocol in (0, 2, 4):
            raw = pickle.dumps({"model": payload}, protocol)
            yield f"{kind}, a pickle of protocol {protocol}", raw
            yield f"{kind}, a zip with a pickle of protocol {protocol}", _zipped(raw)
            yield f"{kind}, its pickle as data of a checkpoint, protocol {protocol}", sealed(good[: -len(raw)] + raw)
        for key in ("model", "optimizer", "scheduler", "step", "extra"):
            content = {"model": {"w": torch.zeros(4)}, "optimizer": None, "step": 1, key: payload}
            yield f"{kind}, torch.save under {key}", _torch_file(content, True)
            yield f"{kind}, an old torch.save under {key}", _torch_file(content, False)
        nested = {"model": {"w": [payload]}, "optimizer": {"state": {0: {"exp_avg": payload}}, "param_groups": []}}
        yield f"{kind}, torch.save deep inside", _torch_file(nested, True)
    text = pickle.dumps(kinds(marker)["os.system"], 0).decode("latin-1")
    yield "a document that holds a pickle", resealed(good, lambda document, _: document.update(info={"x": text}))
    yield (
        "a tree that holds a command",
        resealed(good, lambda document, _: document.update(tree=[f"$(touch {marker})"])),
    )


def run() -> Verdict:
    """Each file, at each place that reads one; a case fails if the marker is there afterwards."""
    verdict = Verdict(facts={"refused": 0})
    with tempfile.TemporaryDirectory() as above:
        marker = Path(above) / "marker"
        for name, data in files(marker):
            for place, read in PLACES.items():
                refused = _read(read, data, Path(above) / "run")
                verdict.facts["refused"] += refused
                verdict.check(not marker.exists(), f"{name} ran in {place}")
                marker.unlink(missing_ok=True)
        for name, make in FOLDERS.items():
            folder = Path(above) / "dcp"
            make(folder, marker)
            for place, read in PLACES.items():
                with contextlib.suppress(Exception), _quiet():
                    read(folder)
                verdict.check(not marker.exists(), f"{name} ran in {place}")
                marker.unlink(missing_ok=True)
            shutil.rmtree(folder)
    return verdict


def _read(read: Callable[[Path], Any], data: bytes, folder: Path) -> bool:
    """Put a file where a reader looks, under a plain name, an odd one, and behind a link; was it refused each time?"""
    refused = True
    for name in ("step-0000000009.safetensors", "$(touch x);\n.pt"):
        folder.mkdir()
        (folder / "data").write_bytes(data)
        (folder / name).symlink_to(folder / "data")
        try:
            with _quiet():
                read(folder / name)
            refused = False
        except fnopt.FnoptError:
            pass
        shutil.rmtree(folder)
    return refused


def _restored(path: Path) -> None:
    with fnopt.CheckpointManager(path.parent if path.is_symlink() else path) as manager:
        manager.best()
        manager.latest()
        manager.restore(LIKE)


def _resumed(path: Path) -> None:
    folder = path.parent if path.is_symlink() else path
    shutil.copy(path, folder / "last.safetensors")
    main(["resume", str(folder)])
    raise fnopt.FnoptError  # the command has said what it thinks


def _command(*words: str) -> Callable[[Path], None]:
    """A command that reads one file; "" stands for the file."""

    def run(path: Path) -> None:
        if main([word or str(path) for word in words]):
            raise fnopt.FnoptError

    return run


PLACES: dict[str, Callable[[Path], Any]] = {
    "load_checkpoint": lambda path: fnopt.load_checkpoint(path, LIKE),
    "read_info": read_info,
    "CheckpointManager": _restored,
    "fnopt resume": _resumed,
    "fnopt inspect": _command("inspect", ""),
    "fnopt verify": lambda path: _command("verify", "")(path.parent if path.is_symlink() else path),
    "fnopt export": lambda path: _command("export", "", str(path.parent / "out.pt"))(path),
}


def _metadata(folder: Path, marker: Path) -> None:
    """A folder of torch.distributed.checkpoint, whose metadata is a pickle."""
    folder.mkdir()
    (folder / ".metadata").write_bytes(pickle.dumps(kinds(marker)["Path.touch"]))


FOLDERS = {"the metadata of DCP": _metadata}


def trusting() -> dict[str, int]:
    """How many of the payloads run in the readers of others, by reader; torch.load as it is by default."""
    ran = {"torch.load": 0, "torch.load, weights_only=False": 0, "pickle.load": 0, "DCP": 0}
    with tempfile.TemporaryDirectory() as above:
        marker = Path(above) / "marker"
        for _, data in files(marker):
            for reader, load in {
                "torch.load": lambda data: torch.load(io.BytesIO(data)),
                "torch.load, weights_only=False": lambda data: torch.load(io.BytesIO(data), weights_only=False),
                "pickle.load": pickle.loads,
            }.items():
                with contextlib.suppress(Exception), _quiet():
                    load(data)
                ran[reader] += marker.exists()
                marker.unlink(missing_ok=True)
        folder = Path(above) / "dcp"
        _metadata(folder, marker)
        from torch.distributed import checkpoint

        with contextlib.suppress(BaseException), _quiet():
            checkpoint.load({"w": torch.zeros(1)}, checkpoint_id=folder, no_dist=True)
        ran["DCP"] += marker.exists()
    return ran


def _good() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return fnopt.save_checkpoint(Path(folder) / "a", at(3)).read_bytes() + bytes(0)


def _torch_file(content: Any, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def _zipped(raw: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", raw)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
