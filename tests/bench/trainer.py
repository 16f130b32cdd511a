"""fnopt.Trainer beside Lightning, Fabric, Accelerate and plain loops: where runs end, and what a step costs.

    python tests/bench/trainer.py quality [JOB ...] [--processes 2]
    python tests/bench/trainer.py overhead [--processes 3] [--rounds 7]
    python tests/bench/trainer.py page

Keeps all figures in tests/bench/trainer.json, prints the tables, and writes them into docs/benchmarks.md. In an
environment with the extra `bench`; the overhead waits for times in which the machine has little else to do.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import all as whole
import trainer_overhead
import trainer_quality
from harness import versions
from trainer_page import FIGURES, section
from trainer_ways import quiet


def main() -> None:
    """Measure what was asked for, keep it, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "overhead", "page"))
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"of {list(trainer_quality.JOBS)}; none: all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    typed = parser.parse_args()
    if typed.worker:
        quiet()
        print(json.dumps(trainer_overhead.measure(typed.rounds)))
        return
    if typed.what == "overhead":
        keep(overhead=quiet_runs(typed.processes, typed.rounds))
    if typed.what == "quality":
        for name in typed.jobs or trainer_quality.JOBS:
            keep(quality={name: trainer_quality.measure(name, typed.processes)})
    print(section())
    whole.PAGE.write_text(whole.page(json.loads(whole.FIGURES.read_text())))


def quiet_runs(count: int, rounds: int) -> list[dict[str, list[float]]]:
    """So many processes, one after another; those in which others took over a tenth of a CPU are done again."""
    runs = []
    while len(runs) < count:
        before, began = busy(), time.monotonic()
        run = worker(rounds)
        others = (busy() - before) / (time.monotonic() - began)
        print(f"others took {others:.2f} of a CPU", flush=True)
        if others <= 0.1:
            runs.append(run)
    return runs


def busy() -> float:
    """Seconds of CPU that all took since the machine began, less those of our own children."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (user + nice + system + sum(rest[:3])) / os.sysconf("SC_CLK_TCK") - own.ru_utime - own.ru_stime


def worker(rounds: int) -> dict[str, list[float]]:
    """One process that measures the overheads."""
    command = [sys.executable, __file__, "overhead", "--worker", "--rounds", str(rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def keep(**parts: Any) -> None:
    """Into the file, beside what is there; jobs one by one."""
    found = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    if "quality" in parts:
        parts["quality"] = {**found.get("quality", {}), **parts["quality"]}
    FIGURES.write_text(json.dumps({**found, **parts, "versions": own_versions()}, indent=1) + "\n")


def own_versions() -> dict[str, str]:
    """Of what takes part."""
    import sklearn

    used = ("python", "machine", "torch", "lightning", "accelerate")
    return {name: value for name, value in versions().items() if name in used} | {"scikit-learn": sklearn.__version__}


if __name__ == "__main__":
    main()
