"""Every setting of a run: its name, default, range and help, in one place. Flags and checkpoints are made of these."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import attrs
import torch

from ..errors import FnoptError
from ..trainer.precisions import Precision

PRECISIONS = get_args(Precision)


class SettingError(FnoptError, ValueError):
    """A setting out of its range; the message names the flag."""


def _flag(default: Any, kind: type, unit: str, text: str, *bounds: float) -> Any:
    """A setting and how it is typed; `bounds` of a number are the least and perhaps the most."""
    low, high = (*bounds, float("inf"))[:2] if bounds else (None, None)
    metadata = {"kind": kind, "unit": unit, "text": text, "low": low, "high": high}
    return attrs.field(default=default, metadata=metadata)


@attrs.frozen
class Config:
    """The settings that decide what a run computes, and how often it says so."""

    data: tuple[str, ...] = _flag((), str, "PATH", "text files, and folders of them (default: Python's help topics)")

    width: int = _flag(128, int, "N", "channels; a multiple of --heads", 1)
    layers: int = _flag(4, int, "N", "transformer blocks", 1)
    heads: int = _flag(4, int, "N", "attention heads", 1)
    context: int = _flag(128, int, "BYTES", "length of the windows of text that the model sees", 1)
    dropout: float = _flag(0.0, float, "P", "probability that an activation is dropped", 0, 0.99)

    updates: int = _flag(800, int, "N", "optimizer updates in all", 1)
    batch_size: int = _flag(8, int, "N", "windows in a micro-batch", 1)
    micro_batches: int = _flag(4, int, "N", "micro-batches accumulated for one update", 1)
    lr: float = _flag(2e-3, float, "RATE", "peak of the learning rate", 0, 1e6)
    warmup: int | None = _flag(None, int, "N", "updates before that peak (default: a tenth of --updates)", 0)
    weight_decay: float = _flag(0.1, float, "RATE", "decay of matrices; norms and biases have none", 0, 1e6)
    clip: float = _flag(1.0, float, "NORM", "largest global norm of a gradient", 1e-6, 1e30)
    ema: float = _flag(0.98, float, "DECAY", "decay of the averaged weights, which are validated; 0: no average", 0, 1)
    precision: str = _flag("bf16", str, "", "of matrix products; fp16 is over 10 times slower than bf16 on a CPU")
    seed: int = _flag(0, int, "N", "decides the first weights, the order of the text, and dropout", 0, 2**62)
    compile: bool = _flag(
        False, bool, "", "run the step as kernels: a quarter faster, after most of a minute of compiling"
    )
    threads: int | None = _flag(
        None, int, "N", "CPU threads; the last bits depend on it (default: torch's choice)", 1, 999
    )

    eval_every: int = _flag(100, int, "N", "updates between validations on the held-out tenth of the text", 1)
    save_every: int = _flag(100, int, "N", "updates between checkpoints", 1)
    log_every: int = _flag(20, int, "N", "updates between lines of progress", 1)

    prompt: str = _flag("The ", str, "TEXT", "how the sample begins")
    sample_bytes: int = _flag(300, int, "BYTES", "how long it goes on", 0)
    temperature: float = _flag(0.7, float, "T", "how random it is; 0: always the likeliest byte", 0, 1e6)

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(Config):
            low, high, value = field.metadata["low"], field.metadata["high"], getattr(self, field.name)
            if low is not None and value is not None and not low <= value <= high:
                wanted = f"at least {low}" if high == float("inf") else f"from {low:g} to {high:g}"
                raise SettingError(f"{flag(field.name)} must be {wanted}, got {value}")
        if self.width % self.heads:
            raise SettingError(f"--width must be a multiple of --heads, got {self.width} and {self.heads}")
        if (self.warmup or 0) >= self.updates:
            raise SettingError(f"--warmup must be less than --updates, got {self.warmup} and {self.updates}")

    def resolved(self) -> "Config":
        """The same run from any folder and machine: paths are absolute, and each default is a number."""
        return attrs.evolve(
            self,
            data=tuple(str(Path(path).absolute()) for path in self.data),
            warmup=self.updates // 10 if self.warmup is None else self.warmup,
            threads=torch.get_num_threads() if self.threads is None else self.threads,
        )

    def as_json(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Config":
        """The config that `as_json` stored."""
        settings: dict[str, Any] = {**stored, "data": tuple(stored["data"])}
        return cls(**settings)


QUICK: dict[str, Any] = {
    "width": 64,
    "layers": 2,
    "context": 64,
    "updates": 30,
    "ema": 0.8,
    "eval_every": 10,
    "save_every": 10,
    "log_every": 5,
    "sample_bytes": 100,
}

GROUPS = {
    "text": ("data",),
    "model": ("width", "layers", "heads", "context", "dropout"),
    "training": (
        *("updates", "batch_size", "micro_batches", "lr", "warmup", "weight_decay", "clip", "ema"),
        *("precision", "seed", "compile", "threads"),
    ),
    "reports": ("eval_every", "save_every", "log_every"),
    "sample of generated text": ("prompt", "sample_bytes", "temperature"),
}


def flag(name: str) -> str:
    """How a setting is typed.

    >>> flag("batch_size")
    '--batch-size'
    """
    return "--" + name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every setting, and `--quick`; what is not typed is not in the namespace."""
    fields = attrs.fields_dict(Config)
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            field = fields[name]
            text = field.metadata["text"]
            options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text, "type": field.metadata["kind"]}
            if "(default:" not in text:
                options["help"] = f"{text} (default: {field.default!r})".replace("%", "%%")
            if name == "precision":
                options["choices"] = PRECISIONS
            elif field.metadata["kind"] is bool:
                options["action"] = argparse.BooleanOptionalAction
                del options["type"]
            else:
                options["metavar"] = field.metadata["unit"]
            if name == "data":
                options["nargs"] = "+"
            group.add_argument(flag(name), **options)
    quick = f"a trial of seconds: {QUICK['updates']} updates of a smaller model; other flags count as well"
    parser.add_argument("--quick", action="store_true", help=quick)


def from_flags(typed: argparse.Namespace) -> Config:
    """The config of a command line; what is typed wins over `--quick`, and that over the defaults."""
    given: dict[str, Any] = {
        field.name: getattr(typed, field.name) for field in attrs.fields(Config) if hasattr(typed, field.name)
    }
    if "data" in given:
        given["data"] = tuple(given["data"])
    settings: dict[str, Any] = {**(QUICK if typed.quick else {}), **given}
    return Config(**settings).resolved()
