"""What the bits of a run depend on beside its state: what wrote a checkpoint, and what reads it."""

import platform
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..errors import CheckpointWarning, StateMismatchError
from ..state import TrainState
from ..tensors import device_of

# Python's own version changes no bit of a tensor: it is written for those who look for a reason.
_DECISIVE = ("fnopt", "torch", "threads", "device", "cpu", "world_size")


def environment(state: TrainState) -> dict[str, Any]:
    """What runs here, with the device of the state's params; JSON."""
    device = device_of(state.params)
    return {
        "fnopt": version(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "world_size": dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1,
    }


def differences(wrote: Mapping[str, Any], reads: Mapping[str, Any]) -> list[str]:
    """What is not the same of that which decides bits; what an older file does not say is not compared.

    >>> differences({"torch": "2.13.0", "threads": 2}, {"torch": "2.13.0", "threads": 1, "device": "cpu"})
    ['threads 2, here 1']
    """
    names = [name for name in _DECISIVE if name in wrote and name in reads]
    return [f"{name} {brief(wrote[name])}, here {brief(reads[name])}" for name in names if wrote[name] != reads[name]]


def brief(value: Any) -> str:
    """A value from a file, of whatever kind and length it is."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}…"


def tell(owner: str, path: Path, wrote: Mapping[str, Any], like: TrainState) -> None:
    """A CheckpointWarning where a run that goes on from this file would not repeat its bits."""
    if found := differences(wrote, environment(like)):
        text = f"{owner}: {path} is from another environment: {'; '.join(found)}; the run goes on, not to the bit"
        warnings.warn(text, CheckpointWarning, stacklevel=3)


def check_exact(path: str, wrote: Mapping[str, Any], like: TrainState) -> None:
    """StateMismatchError where a run that goes on from this file would not repeat its bits."""
    found = differences(wrote, environment(like)) if wrote else ["a torch layout does not say what wrote it"]
    if found:
        error = StateMismatchError(
            f"{path} is from another environment, in which a run has other bits: {'; '.join(found)}; go on there, or "
            "pass exact=False",
            path=path,
            item="environment",
            expected="the one that runs here",
            found="; ".join(found),
            hint="go on there, or pass exact=False",
        )
        error.problems = tuple(found)
        raise error


def version() -> str:
    """fnopt's own."""
    try:
        return metadata.version("fnopt")
    except metadata.PackageNotFoundError:
        return "uninstalled"
