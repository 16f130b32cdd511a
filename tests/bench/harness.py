"""What all benches share: a claim is a ratio to a peer, measured side by side, in several processes.

Each process builds both programs, warms them up, and runs them in turns, a block of ours and a block of the peer's,
`--rounds` times; it reports the two medians and their ratio, and a claim is the range of that ratio over the processes.
Both sides run with the same threads and the same state of malloc (a freed block of 31 MB raises glibc's threshold, so
that large temporaries are reused). What is said to be compiled and is not is refused.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import attrs

PEERS = ("torch", "jax", "optax", "torchopt", "heavyball", "pytorch_optimizer", "lightning", "accelerate")


@attrs.frozen
class Pair:
    """Two programs that do the same work, each a function without arguments.

    stats    of a compiled step of ours: the claim is refused unless its mode is "compiled"
    calls    of each in one block
    """

    ours: Callable[[], Any]
    peer: Callable[[], Any]
    stats: Any = None
    calls: int = 10


@attrs.frozen
class Figures:
    """What a script measured by itself, in one process: two numbers of one unit."""

    ours: float
    peer: float


@attrs.frozen
class Claim:
    """One row: what is done, against whom, and the ratio that was promised."""

    name: str
    what: str
    peer: str
    target: float
    make: Callable[[], Pair | Figures]
    threads: int = 2
    unit: str = "ms"


def measure(claim: Claim, rounds: int) -> dict[str, Any]:
    """The medians of both sides in this process, in milliseconds, and their ratio."""
    import torch

    torch.set_num_threads(claim.threads)
    block = torch.empty(31 * 2**18)  # 31 MB: one of 32 and more leaves the threshold where it is
    del block
    pair = claim.make()
    if isinstance(pair, Figures):
        return {"ours": pair.ours, "peer": pair.peer, "ratio": pair.ours / pair.peer}
    for _ in range(3):
        _block(pair.ours, pair.calls), _block(pair.peer, pair.calls)
    ours, peer = [], []
    for _ in range(rounds):
        ours.append(_block(pair.ours, pair.calls))
        peer.append(_block(pair.peer, pair.calls))
    if pair.stats is not None and (pair.stats.mode != "compiled" or pair.stats.fallback):
        raise SystemExit(f"{claim.name}: refused, this is {pair.stats}")
    mine, theirs = statistics.median(ours), statistics.median(peer)
    return {"ours": mine, "peer": theirs, "ratio": mine / theirs}


def _block(run: Callable[[], Any], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - begin) / calls * 1e3


def main(claims: Sequence[Claim]) -> None:
    """The command of one script: run its claims, or those named, and print the table; with --json keep the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="CLAIM", help=f"of {[claim.name for claim in claims]}; none: all")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, help="add the medians of every process to this file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    typed = parser.parse_args()
    known = {claim.name: claim for claim in claims}
    if strange := sorted({*typed.names} - known.keys()):
        parser.error(f"there are no claims {strange}; there are {sorted(known)}")
    chosen = [known[name] for name in typed.names] or list(claims)
    if typed.worker:
        print(json.dumps(measure(chosen[0], typed.rounds)))
        return
    for claim in chosen:
        runs = [worker(claim, typed.rounds) for _ in range(typed.processes)]
        print(row(claim, runs), flush=True)
        if typed.json:
            keep(typed.json, claim, runs)


def worker(claim: Claim, rounds: int) -> dict[str, Any]:
    """One process; what went wrong there is the reason that the row is missing."""
    command = [sys.executable, sys.argv[0], claim.name, "--worker", "--rounds", str(rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(claim.threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return {"missing": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def row(claim: Claim, runs: Sequence[dict[str, Any]]) -> str:
    """A line of the table."""
    if lost := [run["missing"] for run in runs if "missing" in run]:
        return f"| {claim.what} | {claim.peer} | {claim.target:g} | missing: {lost[0]} | | |"
    ours, peer, ratio = ([run[key] for run in runs] for key in ("ours", "peer", "ratio"))
    verdict = "met" if statistics.median(ratio) <= claim.target else "**not met**"
    figures = f"{statistics.median(ratio):.3g} ({_range(ratio)}), {verdict}"
    sides = " | ".join(f"{_range(side)} {claim.unit}" for side in (ours, peer))
    return f"| {claim.what} | {claim.peer} | {claim.target:g} | {figures} | {sides} |"


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"


def keep(path: Path, claim: Claim, runs: Sequence[dict[str, Any]]) -> None:
    """The figures beside those of other claims, with what they were measured with."""
    found = json.loads(path.read_text()) if path.exists() else {}
    fields = {name: getattr(claim, name) for name in ("what", "peer", "target", "threads", "unit")}
    found[claim.name] = {**fields, "runs": list(runs), "versions": versions()}
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def versions() -> dict[str, str]:
    """Of Python, the machine's kind of processor, and every peer that is installed."""
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} CPUs"}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
