"""Do three ways to train end at the same quality? Each job of trainer_jobs.py, with several seeds, in each way.

The rule, fixed before the first run: of the paired differences (same first weights) the 95 % interval of their mean is
taken, by Student's t. Two ways are called equal if it lies within the margins of the job, different if it does not hold
0 and leaves them, and else nothing is said.
"""

import itertools
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import attrs
import torch
from torch import nn
from trainer_jobs import Job, digits, main_job
from trainer_ways import by_lightning, by_loop, by_trainer

OURS, COMPILED, LIGHTNING, LOOP = "fnopt.Trainer", "the same, compile=True", "Lightning's Trainer", "plain torch loop"
CONTROL, NUDGED = "control: the loop with 0.3 of the lr", "the loop from first weights larger by 1e-7"
WAYS: dict[str, Callable[..., nn.Module]] = {
    OURS: by_trainer,
    COMPILED: partial(by_trainer, compile=True),
    LIGHTNING: by_lightning,
    LOOP: by_loop,
    CONTROL: partial(by_loop, rate=0.3),
}
SAME: dict[str, Callable[..., nn.Module]] = {
    OURS: by_trainer,
    COMPILED: partial(by_trainer, compile=True),
    LIGHTNING: by_lightning,
    NUDGED: partial(by_loop, nudge=1e-7),
}
JOBS: dict[str, Callable[[], Job]] = {"digits": digits, "main job": main_job}


def train(name: str, way: str, seed: int) -> dict[str, float]:
    """One run: what it reaches on the data that was held out."""
    torch.set_num_threads(1)
    job = JOBS[name]()
    return job.measure(WAYS[way](job, seed))


def same_batches(name: str, epochs: int) -> dict[str, Any]:
    """These epochs in float32, the same batches in the same order: how far is each way from the plain loop?"""
    torch.set_num_threads(1)
    job = attrs.evolve(JOBS[name](), precision="fp32", epochs=epochs)
    loop = by_loop(job, 0, same=True)
    whole = job.measure(loop)["loss"]
    apart = {}
    for way, trained in SAME.items():
        model = trained(job, 0, same=True)
        pairs = zip(model.parameters(), loop.parameters(), strict=True)
        weights = max((a - b).detach().abs().max().item() for a, b in pairs)
        apart[way] = {"weights": weights, "loss": abs(job.measure(model)["loss"] - whole)}
    return {"updates": job.updates, "apart": apart}


def measure(name: str, processes: int) -> dict[str, Any]:
    """The figures of a job: what it was, the runs of each way by seed, and the distances on the same batches."""
    job, context = JOBS[name](), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        same = [pool.submit(same_batches, name, epochs) for epochs in job.same]
        todo = list(itertools.product(range(job.seeds), WAYS))
        runs = {key: pool.submit(train, name, key[1], key[0]) for key in todo}
        for seed, way in todo:
            print(name, seed, way, runs[seed, way].result(), flush=True)
        results = {way: [runs[seed, way].result() for seed in range(job.seeds)] for way in WAYS}
        told = ("what", "batch_size", "epochs", "updates", "lr", "weight_decay", "precision", "margins", "seeds")
        return {**{key: getattr(job, key) for key in told}, "runs": results, "same": [one.result() for one in same]}


def table(found: dict[str, Any]) -> str:
    """Means, standard deviations, differences and judgements of a job."""
    runs, lines = found["runs"], ["| way | held-out loss | accuracy |", "|---|---|---|"]
    for way in WAYS:
        cells = [_mean([run[metric] for run in runs[way]]) for metric in found["margins"]]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    lines += ["", f"| from {OURS}, 95 % interval | held-out loss | accuracy |", "|---|---|---|"]
    for way in (LIGHTNING, LOOP, COMPILED, CONTROL):
        cells = [judged(found, way, metric) for metric in found["margins"]]
        lines.append(f"| to {way} | {' | '.join(cells)} |")
    lines += ["", "| same batches, fp32: from the plain loop | updates | weights, at most | held-out loss |"]
    lines.append("|---|---|---|---|")
    for same in found["same"]:
        for way, apart in same["apart"].items():
            lines.append(f"| {way} | {same['updates']} | {_apart(apart['weights'])} | {_apart(apart['loss'])} |")
    return "\n".join(lines)


def _apart(distance: float) -> str:
    return f"{distance:.1e}" if distance else "0: the same bits"


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def judged(found: dict[str, Any], way: str, metric: str) -> str:
    """Another way less ours: the interval of the mean difference, and what the rule says."""
    from scipy.stats import t

    pairs = zip(found["runs"][OURS], found["runs"][way], strict=True)
    differences = [theirs[metric] - ours[metric] for ours, theirs in pairs]
    n, mean, margin = len(differences), statistics.mean(differences), found["margins"][metric]
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5
    verdict = "undecided"
    if abs(mean) + half <= margin:
        verdict = "equal"
    elif abs(mean) > half:
        verdict = "**different**"
    return f"{mean:+.4f} ± {half:.4f}, {verdict} (margin {margin:g})"
