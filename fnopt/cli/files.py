"""`fnopt inspect`, `verify` and `export`: checkpoints without the program that wrote them."""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checkpoint import export_torch, load_checkpoint
from ..checkpoint.contents import Contents, blank_state, contents_of, verify
from ..checkpoint.fs import as_text
from ..errors import CheckpointError, CheckpointNotFoundError, UsageError
from .config import Config
from .job import make_model, make_optimizer

ENDINGS = (".safetensors", ".pt", ".pth")
LONGEST = 400  # characters of info


def add_commands(commands: Any) -> None:
    """The three commands."""
    about = "say what is in a checkpoint: schema, position, info, tensors, and whether a bit has changed"
    parser = commands.add_parser("inspect", help=about, description=about, allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.set_defaults(work=inspect_file)
    about = "read every checkpoint in a folder; exit status 1 if one is not as it was written"
    parser = commands.add_parser("verify", help=about, description=about, allow_abbrev=False)
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.set_defaults(work=verify_folder)
    about = "write a checkpoint as a .pt in torch's layout; with the optimizer, if `fnopt train` wrote it"
    parser = commands.add_parser("export", help=about, description=about, allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("target", metavar="OUT.pt", type=Path)
    parser.set_defaults(work=export_file)


def inspect_file(typed: argparse.Namespace) -> int:
    """Print what is in a file; 1 if its data are damaged."""
    inside = sorted(path for path in typed.file.iterdir() if path.suffix in ENDINGS) if typed.file.is_dir() else []
    if inside:
        fix = f"`fnopt inspect {inside[-1]}`, or `fnopt verify {typed.file}` for all of them"
        raise UsageError(f"inspect: {typed.file} is a folder, expected one of its files: {fix}")
    found = contents_of(typed.file)
    print(typed.file)
    for name, text in _facts(found):
        print(f"  {name:<9} {text}")
    rows = list(_rows(found))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("   ", *(part.ljust(width) for part, width in zip(row, widths, strict=False)), row[3])
    return 1 if found.damage else 0


def verify_folder(typed: argparse.Namespace) -> int:
    """Print ok or why not for each file; 1 if any is broken."""
    folder: Path = typed.folder
    files = sorted(path for path in folder.iterdir() if path.suffix in ENDINGS) if folder.is_dir() else []
    if not files:
        what = f"no file named {', '.join('*' + ending for ending in ENDINGS)}" if folder.is_dir() else "no folder"
        expected, hint = "a folder with checkpoints", "name the folder of a run"
        raise CheckpointNotFoundError(
            f"{folder}: {what}, expected {expected}; {hint}",
            path=str(folder),
            item="folder",
            expected=expected,
            found=what,
            hint=hint,
        )
    broken = 0
    for path in files:
        try:
            verify(path)
            print(f"{path.name}: ok")
        except CheckpointError as problem:
            broken += 1
            print(f"{path.name}: {type(problem).__name__}: {problem}")
    print(f"{len(files) - broken} of {len(files)} files are as they were written")
    return 1 if broken else 0


def export_file(typed: argparse.Namespace) -> int:
    """Write the .pt, and say what is in it."""
    found = contents_of(typed.file)
    state = load_checkpoint(typed.file, like=blank_state(found), allow_nonfinite=True)
    info, model, optimizer = found.document.info, None, None
    if "config" in info:
        config = Config.from_json(info["config"])
        model = make_model(config)
        optimizer = make_optimizer(config, model)
    metric = found.document.metric
    if "config" in info:  # bits per byte, of which torch's users make nats
        best = info.get("marks", {}).get("best")
        metric = None if best is None else best * math.log(2)
    loss = math.inf if metric is None else metric
    export_torch(typed.target, state, model=model, optimizer=optimizer, best_val_loss=loss)
    without = "" if optimizer else "; its optimizer is not: fnopt.export_torch(path, state, optimizer=…) writes it, too"
    print(f"wrote {typed.target}: {len(state.params)} params at step {state.position}{without}")
    return 0


def _facts(found: Contents) -> Iterator[tuple[str, str]]:
    document = found.document
    made = ", ".join(f"{name} {version}" for name, version in document.environment.items())
    info = json.dumps(document.info, sort_keys=True)
    sizes = [entry[0].numel() * entry[1].itemsize for entry in found.tensors.values() if entry]
    yield "schema", f"{document.schema}, made with {made}"
    yield "sha256", "ok" if found.damage is None else f"WRONG: {found.damage}"
    yield "position", f"{document.position}, updates {document.updates}, seed {document.seed}"
    yield "metric", f"{document.metric}, save {document.serial} of its folder" if document.serial else "none"
    yield "info", info if len(info) <= LONGEST else info[:LONGEST] + "…"
    yield "tensors", f"{len(sizes)}, {as_text(sum(sizes))}"


def _rows(found: Contents) -> Iterator[tuple[str, str, str, str]]:
    for name, entry in found.tensors.items():
        if entry is None:
            yield name, "empty", "", ""
        else:
            shape, dtype = entry
            size = as_text(shape.numel() * dtype.itemsize)
            yield name, str(dtype).removeprefix("torch."), str(list(shape)), size
