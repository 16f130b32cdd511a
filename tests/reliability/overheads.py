"""P23: what durability, the digest and an asynchronous save cost: medians of rounds in turns, in one process."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from verdict import Verdict
from ways import as_dict

import fnopt
from fnopt.state import TrainState, snapshot

TENSORS, EACH = 32, 2**20  # 128 MiB of float32


def measured(rounds: int = 7) -> dict[str, float]:
    """Milliseconds of a durable, hashed save; of torch.save without any fsync; of the call of an asynchronous save; and
    of one copy of the state.
    """
    state = TrainState.of({f"w{i}": torch.randn(EACH) for i in range(TENSORS)})
    times: dict[str, list[float]] = {"save_checkpoint": [], "torch.save": [], "asynchronous": [], "copy": []}
    with tempfile.TemporaryDirectory() as folder:
        manager = fnopt.CheckpointManager(Path(folder) / "run", keep=1, asynchronous=True)
        programs: dict[str, Callable[[], Any]] = {
            "save_checkpoint": lambda: fnopt.save_checkpoint(Path(folder) / "ours.safetensors", state),
            "torch.save": lambda: torch.save(as_dict(state), Path(folder) / "theirs.pt"),
            "copy": lambda: snapshot(state),
            "asynchronous": lambda: manager.save(state),
        }
        for number in range(rounds + 1):
            for name, run in programs.items():
                begin = time.perf_counter()
                run()
                times[name] += [(time.perf_counter() - begin) * 1e3] * (number > 0)  # the first round warms up
                manager.latest()  # waits for what is being written
        manager.close()
    return {name: statistics.median(values) for name, values in times.items()}


def judged() -> Verdict:
    """The two ratios that were promised, and the milliseconds that they are made of."""
    ms, verdict = measured(), Verdict()
    durable, stall = ms["save_checkpoint"] / ms["torch.save"], ms["asynchronous"] / ms["copy"]
    verdict.facts = {"durable save / torch.save": durable, "async stall / one copy": stall}
    verdict.facts |= {f"{name}, ms": value for name, value in ms.items()}
    verdict.check(durable <= 2.5, f"a durable save takes {durable:.2f} times as long as torch.save")
    verdict.check(stall <= 1.1, f"an asynchronous save stalls for {stall:.2f} copies of the state")
    return verdict
