"""P21: what an asynchronous save writes is the state as it was when `save` was called."""

import tempfile
from pathlib import Path

import torch
from checkpoint_cases import fingerprint, small_state
from manager_cases import Gate
from verdict import Verdict

import fnopt
from fnopt.checkpoint.names import flatten
from fnopt.state import TrainState


def overwritten(rounds: int) -> Verdict:
    """Every tensor is written to, in place, before the thread writes a byte."""
    verdict = Verdict()
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        for seed in range(rounds):
            state, gate = _state(seed), Gate()
            before = fingerprint(fnopt.snapshot(state))
            with fnopt.CheckpointManager(folder, keep=1, asynchronous=True, fs=gate.fs) as manager:
                path = manager.save(state)
                for leaf in flatten("test", state).values():
                    if leaf is not None:
                        leaf.logical_not_() if leaf.dtype == torch.bool else leaf.add_(1)
                gate.opened.set()
            found = fingerprint(fnopt.load_checkpoint(path, state, allow_nonfinite=True))
            verdict.check(found == before, f"round {seed}: other bits than when it was saved")
    return verdict


def donated(rounds: int) -> Verdict:
    """A compiled step writes the next states into the memory of the one that is being saved."""
    oracle = fnopt.value_and_grad(lambda params, x: (((params["w"] - x) ** 2).sum(), len(x)))
    step, verdict = fnopt.compiled(fnopt.make_step(oracle, fnopt.AdamW(lr=0.1))), Verdict()
    state, _ = step.step(step.init_state({"w": torch.ones(64)}), torch.zeros(64))
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        for number in range(rounds):
            before, gate = fingerprint(fnopt.snapshot(state)), Gate()
            with fnopt.CheckpointManager(folder, keep=1, asynchronous=True, fs=gate.fs) as manager:
                path = manager.save(state)
                for _ in range(3):
                    state, _ = step.step(state, torch.zeros(64))
                gate.opened.set()
            found = fingerprint(fnopt.load_checkpoint(path, fnopt.snapshot(state)))
            verdict.check(found == before, f"round {number}: other bits than when it was saved")
    verdict.check(step.stats.mode == "compiled", f"the step is {step.stats}")
    return verdict


def _state(seed: int) -> TrainState:
    state = small_state(seed)
    state.extra.update(half=torch.arange(3, dtype=torch.bfloat16), scalar=torch.tensor(1.5), none=torch.zeros(0))
    return state


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
