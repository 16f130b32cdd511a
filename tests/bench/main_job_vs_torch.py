"""The main job by fnopt, and by the plain loop that a PyTorch user would write: how far apart do they end?

Both train the same model from the same weights on the same batches, for as many updates, in the same precision. Prints
the bits per byte that the averaged weights of each reach on the held-out text, their difference, and the wall times of
training alone (one after the other, so they are only as good as the machine is quiet). Evaluation is no part of them.

    python tests/bench/main_job_vs_torch.py [--quick] [--updates N] [any other flag of `fnopt train`] [--json PATH]

In float32 and without kernels, which is the default here, both do the same but for last bits, and end together. In
bfloat16 (the default of `fnopt train`), or with `--compile`, a last bit early on grows, as training is chaotic:
`--control` runs the torch loop once more, from weights that are larger by one part in ten million, and so shows how far
apart torch ends from itself.
"""

import argparse
import json
import math
import platform
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

import fnopt
from fnopt.cli.config import Config, add_flags, from_flags
from fnopt.cli.job import Job, make_job
from fnopt.cli.text import read_text


def by_fnopt(job: Job) -> tuple[float, float]:
    """Bits per byte on the held-out text, and seconds of training."""
    state, began = job.step.init_state(job.model, job.config.seed), time.perf_counter()
    for latest, _ in fnopt.run(job.step, state, job.data, job.config.updates):
        state = latest
    seconds = time.perf_counter() - began
    job.trainer.state = state
    return job.trainer.evaluate()["bits_per_byte"], seconds


def by_torch(job: Job, nudge: float = 0.0) -> tuple[float, float]:
    """The same by torch alone, but for the order of the data; `nudge` makes all first weights larger by that part."""
    model, c = job.model, job.config
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + nudge)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": c.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=c.lr, betas=(0.9, 0.99))

    def factor(t: int) -> float:
        if t < c.warmup:
            return t / c.warmup
        return (1 + math.cos(math.pi * (t - c.warmup) / (c.updates - c.warmup))) / 2

    schedule = LambdaLR(optimizer, factor)
    params = list(model.parameters())
    average = [p.detach().clone() for p in params]

    began = time.perf_counter()
    for t in range(c.updates):
        micro_batches = job.data.at(t)
        weight = sum(y.numel() for _, y in micro_batches)
        for x, y in micro_batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=c.precision == "bf16"):
                loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")
            (loss / weight).backward()
        nn.utils.clip_grad_norm_(params, c.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        decay = c.ema * min(1.0, t / max(1, c.warmup))
        torch._foreach_lerp_(average, [p.detach() for p in params], 1 - decay)
    seconds = time.perf_counter() - began

    total, weight = 0.0, 0
    model.eval()
    with torch.no_grad():
        for p, mean in zip(params, average, strict=True):
            p.copy_(mean)
        for x, y in job.held_out:
            total += F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum").item()
            weight += y.numel()
    return total / weight / math.log(2), seconds


def compare(config: Config, control: bool = False) -> dict[str, float]:
    """The figures of both, and of the control."""
    torch.set_num_threads(config.threads)
    text = read_text(config.data)
    runs = {"fnopt": by_fnopt, "torch": by_torch}
    if control:
        runs["control"] = lambda job: by_torch(job, nudge=1e-7)
    found: dict[str, float] = {}
    for name, train in runs.items():
        found[f"{name}_bits_per_byte"], found[f"{name}_seconds"] = train(make_job(config, text))
        print(
            f"{name:<8}{found[f'{name}_bits_per_byte']:.4f} bits per byte  {found[f'{name}_seconds']:6.1f} s",
            flush=True,
        )
    found["difference"] = found["fnopt_bits_per_byte"] - found["torch_bits_per_byte"]
    found["ratio"] = found["fnopt_seconds"] / found["torch_seconds"]
    return found


def main() -> None:
    """Run both, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--control", action="store_true", help="also run torch from slightly other first weights")
    parser.set_defaults(precision="fp32")
    typed = parser.parse_args()
    config = from_flags(typed)
    if config.precision == "fp16":
        parser.error("the torch loop has no loss scale; take --precision fp32 or bf16")
    print(f"{config.updates} updates, {config.precision}, {config.threads} threads", flush=True)
    found = compare(config, typed.control)
    print(f"fnopt - torch {found['difference']:+.4f} bits per byte; fnopt / torch {found['ratio']:.2f} in time")
    if typed.json:
        versions = {"torch": torch.__version__, "python": platform.python_version(), "platform": platform.platform()}
        typed.json.write_text(json.dumps({**found, "config": config.as_json(), **versions}, indent=1) + "\n")


if __name__ == "__main__":
    main()
