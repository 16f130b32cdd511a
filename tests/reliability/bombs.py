"""P7: files that would cost far more memory than they have bytes, refused within their size and 64 MB.

Each is loaded in a fork of its own, whose resident memory is measured, and whose address space is limited.
"""

import io
import pickle
import resource
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from checkpoint_cases import sealed
from forks import board, fork, returncode
from manager_cases import LIKE
from verdict import Verdict

import fnopt
from fnopt.checkpoint.container import PREFIX
from fnopt.errors import CheckpointError

ROOM = 64_000_000
SIZE = 10_000_000
REFUSED, PASSED, TOO_MUCH = 1, 2, 3


def bounded(names: list[str] | None = None) -> Verdict:
    """All bombs, or these; `most` is the largest growth of the resident memory over the size of the file, in MB."""
    verdict = Verdict(facts={"most MB above the file's size": 0.0})
    with tempfile.TemporaryDirectory() as folder:
        for name in BOMBS if names is None else names:
            path = Path(folder) / "bomb"
            path.write_bytes(BOMBS[name]())
            outcome, grown = _loaded(path)
            size = path.stat().st_size
            verdict.check(outcome == REFUSED, f"{name} of {size} bytes: {OUTCOMES.get(outcome, 'the process died')}")
            verdict.check(grown <= size + ROOM, f"{name} of {size} bytes: {grown / 1e6:.0f} MB more in memory")
            most = max(verdict.facts["most MB above the file's size"], (grown - size) / 1e6)
            verdict.facts["most MB above the file's size"] = round(most, 1)
    return verdict


OUTCOMES = {PASSED: "was loaded", TOO_MUCH: "wanted more memory than it may"}


def _loaded(path: Path) -> tuple[int, int]:
    """What became of a load, and by how much the memory of the process grew at most."""
    notes = board(2)
    returncode(fork(lambda: _load(path, notes)))
    return notes[0], notes[1]


def _load(path: Path, notes: memoryview) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmHWM")
    most = _status("VmSize") + path.stat().st_size + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        fnopt.load_checkpoint(path, LIKE)
        notes[0] = PASSED
    except CheckpointError:
        notes[0] = REFUSED
    except (MemoryError, RuntimeError):
        notes[0] = TOO_MUCH
    notes[1] = _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _header(text: bytes) -> bytes:
    """A checkpoint that is one header, sealed."""
    data = PREFIX + b"0" * 64 + b'","fnopt":"' + text
    return sealed(len(data).to_bytes(8, "little") + data)


def _tiny_tensors() -> bytes:
    entry = '"{}":{{"dtype":"U8","shape":[],"data_offsets":[0,0]}},'
    return _header(b'"},' + "".join(entry.format(i) for i in range(1_000_000)).encode()[:-1] + b"}")


def _torch_file(content: object, compression: int = zipfile.ZIP_STORED) -> bytes:
    """What torch.save writes, in an archive that may be compressed."""
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.save(content, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return packed.getvalue()


def _pickled(raw: bytes) -> bytes:
    """A torch file with this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", raw)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def _model(leaf: object) -> dict[str, object]:
    return {"model": {"w": leaf}, "optimizer": None, "step": 1}


BOMBS: dict[str, Callable[[], bytes]] = {
    "deep lists": lambda: _header(b'"},"a":' + b"[" * SIZE),
    "a deep document": lambda: _header(b"[" * SIZE + b'"}}'),
    "lists below the limit of depth": lambda: _header(b'"},"a":' + b"[" * 299_000),
    "small values": lambda: _header(b'"},"a":[' + b"[]," * (SIZE // 3) + b"0]}"),
    "escaped values": lambda: _header(b"\\u005b" * (SIZE // 6) + b'"}}'),
    "a million tiny tensors": _tiny_tensors,
    "a long number": lambda: _header(b'"},"a":' + b"9" * SIZE + b"}"),
    "a long string": lambda: _header(b"x" * SIZE + b'"}}'),
    "a huge shape": lambda: _header(
        b'"},"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    ),
    "95 MB of header": lambda: _header(b"[]," * 32_000_000),
    "95 MB of document": lambda: _header(b"x" * 95_000_000 + b'"}}'),
    "95 MB of number": lambda: _header(b'"},"a":' + b"9" * 95_000_000 + b"}"),
    "long and wide": lambda: _header(b"x" * SIZE + b'"},"a":[' + b"[]," * 125_000 + b"0]}"),
    "a huge header": lambda: (1 << 60).to_bytes(8, "little") + PREFIX + b"0" * 64,
    "a zip bomb": lambda: _torch_file(_model(torch.zeros(2**25)), zipfile.ZIP_DEFLATED),
    "a tensor of stride 0": lambda: _torch_file(_model(torch.zeros(1).expand(2**40))),
    "a million entries": lambda: _torch_file(_model(list(range(1_000_000)))),
    "a deep pickle": lambda: _pickled(b"\x80\x02" + b"]" * SIZE + b"."),
    "many small objects": lambda: _pickled(b"\x80\x02(" + b"}" * SIZE + b"l."),
    "a list that doubles": lambda: _pickled(b"\x80\x02]" + b"q\0(h\0h\0l" * 1_000_000 + b"."),
    "a large pickle": lambda: _pickled(pickle.dumps({"model": {str(i): i for i in range(300_000)}}, 2)),
}
