"""P16: what does not fit is refused, with the error of its row of the table, before anything of the state changes."""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import payloads
import torch
from checkpoint_cases import fingerprint, resealed, small_state
from torch import Tensor
from verdict import Verdict

import fnopt
from fnopt import errors
from fnopt.record import evolve
from fnopt.state import TrainState

Change = Callable[[TrainState], TrainState]
MISMATCH = errors.StateMismatchError


def _params(**leaves: Tensor) -> Change:
    return lambda state: evolve(state, params={**state.params, **leaves})


def _memory(**leaves: Any) -> Change:
    return lambda state: evolve(state, opt_state={**state.opt_state, **leaves})


def _without(state: TrainState, name: str) -> TrainState:
    average = {key: leaf for key, leaf in state.opt_state["exp_avg"].items() if key != name}
    return evolve(state, opt_state={**state.opt_state, "exp_avg": average})


def _renamed(state: TrainState) -> TrainState:
    return evolve(state, params={"q" if name == "z" else name: leaf for name, leaf in state.params.items()})


Z = torch.zeros(2, dtype=torch.complex64)
W = torch.zeros(2, 2, 2, 2)
# the states that were saved, of another run than the one that loads; the row of the table, the error, what it says
STATES: list[tuple[str, Change, type[Exception], str]] = [
    ("11 a wrong shape", _memory(step=torch.zeros(2, dtype=torch.int64)), MISMATCH, r"[2] not []"),
    ("11 a shape that would broadcast", _params(z=Z[:1]), MISMATCH, "params/z [1] not [2]"),
    ("12 a memory is missing", lambda s: evolve(s, opt_state={"step": s.opt_state["step"]}), MISMATCH, "missing"),
    ("13 a parameter's memory is missing", lambda s: _without(s, "z"), MISMATCH, "exp_avg/z"),
    ("14 another float", _params(z=Z.to(torch.complex128)), MISMATCH, "complex128 not complex64"),
    ("14 an int", _memory(exp_avg={"conv.weight": W.int(), "z": Z}), MISMATCH, "int32"),
    ("15 a renamed parameter", _renamed, MISMATCH, "1 missing: params/z; 1 unexpected: params/q"),
    ("16 another optimizer", lambda s: evolve(s, opt_state={"momentum": s.params}), MISMATCH, "another optimizer"),
    ("17 nan in params", _params(z=Z * float("nan")), errors.NonFiniteError, "params/z"),
    ("17 an infinity in the optimizer", _memory(exp_avg={"conv.weight": W + float("inf"), "z": Z}),
     errors.NonFiniteError, "opt_state/exp_avg/conv.weight"),
    ("18 a negative step", _memory(step=torch.tensor(-1)), MISMATCH, "opt_state/step"),
    ("18 negative updates", lambda s: evolve(s, updates=torch.tensor(-5)), MISMATCH, "updates"),
    ("23 another model", lambda s: TrainState.of(dict.fromkeys("abcdefghi", W)), MISMATCH, "and 4 more"),
]  # fmt: skip


def _made(folder: Path) -> Iterator[tuple[str, Path, type[Exception], str]]:
    """Files that are none, or lie."""
    good, marker = fnopt.save_checkpoint(folder / "good", small_state()).read_bytes(), folder / "marker"
    torch.save({"model": payloads.kinds(marker)["exec"], "step": 1}, folder / "evil.pt")
    torch.save({"model": {"w": torch.zeros(1).expand(2**40)}, "step": 1}, folder / "wide.pt")
    (folder / "dcp").mkdir()
    (folder / "dcp" / ".metadata").touch()
    os.mkfifo(folder / "pipe")
    contents = {
        "empty": b"",
        "text": b"epoch: 3\n",
        "png": b"\x89PNG\r\n\x1a\n" + bytes(30),
        "cut": good[:-7],
        "flipped": good[:-7] + bytes([good[-7] ^ 1]) + good[-6:],
        "newer": resealed(good, lambda document, _: document.update(schema=99)),
        "bad name": resealed(good, lambda document, _: document.update(tree=["params/../x"])),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    corrupt, foreign, unsafe = errors.CheckpointCorruptError, errors.NotACheckpointError, errors.UnsafeCheckpointError
    yield "1 a missing path", folder / "god", errors.CheckpointNotFoundError, "nearest names"
    yield "2 a directory", folder, foreign, "a directory"
    for name, what in (("empty", "an empty file"), ("text", "a text file"), ("png", "a PNG image"), ("pipe", "pipe")):
        yield f"2 {what}", folder / name, foreign, what
    yield "3 a cut file", folder / "cut", corrupt, f"{len(good) - 7} bytes, expected {len(good)}"
    yield "4 a flipped bit", folder / "flipped", corrupt, "sha256"
    yield "5 a pickle with code", folder / "evil.pt", unsafe, "pickle"
    yield "6 a folder of DCP", folder / "dcp", unsafe, "pickle that runs"
    yield "8 a tensor of stride 0", folder / "wide.pt", unsafe, "strides"
    yield "10 a name that is a path", folder / "bad name", unsafe, "'params/../x'"
    yield "22 a newer schema", folder / "newer", errors.CheckpointVersionError, "upgrade"


def refused() -> Verdict:
    """Each row: the type of the error, what it says in one sentence, and that the state of the loader is as before."""
    verdict = Verdict()
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above)
        for row, path, error, text in _made(folder):
            _judge(verdict, row, path, error, text)
        for row, change, error, text in STATES:
            path = fnopt.save_checkpoint(folder / "other", change(small_state(1)))
            _judge(verdict, row, path, error, text)
        foreign = {"torch": "2.12.0", "threads": 99, "world_size": 2}
        data = fnopt.save_checkpoint(folder / "here", small_state()).read_bytes()
        (folder / "there").write_bytes(resealed(data, lambda document, _: document["environment"].update(foreign)))
        _judge(verdict, "35 another environment", folder / "there", MISMATCH, "world_size 2, here 1", exact=True)
    return verdict


def _judge(verdict: Verdict, row: str, path: Path, error: type[Exception], text: str, **options: bool) -> None:
    like = small_state()
    before, found = fingerprint(like), None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fnopt.load_checkpoint(path, like, **options)
    except Exception as raised:
        found = raised
    said = str(found)
    right = type(found) is error and text in said and "\n" not in said
    right = right and (found.__cause__ is None and (found.__context__ is None or found.__suppress_context__))
    verdict.check(right and fingerprint(like) == before, f"{row}: {found!r}")
