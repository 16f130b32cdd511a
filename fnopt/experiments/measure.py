"""Measures: how far params are apart, what an update takes beside the state, how long it takes."""

import json
import os
import statistics
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from .._torch import tree_leaves
from ..types import Tensors


def ulps(params: Tensors, others: Tensors) -> float:
    """The largest distance of two entries, in ulp of the largest entry of their tensor; exactly 0 for equal bits.

    An ulp (unit in the last place) of x is the gap between the two numbers of its dtype around |x|. It is that of the
    tensor's largest entry, because an entry near 0 may differ in its sign and matter to nobody.

    >>> ulps({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([1.0 + 2**-23, 0.0])})
    1.0
    """
    return max((_ulps(leaf, others[name]) for name, leaf in params.items() if leaf.numel()), default=0.0)


def _ulps(leaf: Tensor, other: Tensor) -> float:
    apart = (leaf.double() - other.double()).abs().max()
    _, exponent = torch.frexp(other.abs().max().double())
    unit = torch.finfo(other.dtype).eps * 2.0 ** (float(exponent) - 1)
    return float(apart) / unit if unit else float(apart != 0)


def differing(params: Tensors, others: Tensors) -> int:
    """How many entries do not have the same bits (so 0.0 and -0.0 count as different)."""
    return sum(int((_bits(leaf) != _bits(others[name])).sum()) for name, leaf in params.items())


def _bits(leaf: Tensor) -> Tensor:
    return leaf.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[leaf.dtype.itemsize])


def bytes_of(tree: Any) -> int:
    """The memory that the tensors of a tree hold, each storage once."""
    storages = [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def peak(run: Callable[[], Any], device: torch.device) -> int:
    """The most bytes of tensors that `run()` holds at one time beside those that were there before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        with _quiet(), traced(path, device, memory=True):  # torch complains of memory that was there before
            run()
        events = json.loads(path.read_text())["traceEvents"]
    events = sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    # the sums in the events themselves go on from one trace to the next
    return max(accumulate((event["args"]["Bytes"] for event in events), initial=0))


@contextmanager
def traced(path: Path, device: torch.device, memory: bool = False) -> Generator[None]:
    """Write what runs inside as a trace that Perfetto and chrome://tracing open."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with _quiet():  # torch 2.13 writes two lines to stderr each time
        recorder = profile(activities=activities, profile_memory=memory)
        recorder.start()
    try:
        yield
    finally:
        with _quiet():
            recorder.stop()
    recorder.export_chrome_trace(str(path))


@contextmanager
def _quiet() -> Generator[None]:
    """What is written to stderr meanwhile, by C++ too, is lost."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def typical(seconds: Iterable[float]) -> float:
    """The median, of all but the first two: those compile and warm up."""
    listed = list(seconds)
    return statistics.median(listed[2:] or listed)
