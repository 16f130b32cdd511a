"""How many mutants of the mathematics do the tests kill?

Copies what HEAD tracks into a temporary folder, lets mutmut make every mutant of the rules, the transforms, the
schedules and the step, draws a sample of them, and runs on each the tests that reach its function, until one fails.

    python tests/bench/mutation.py [--count N] [--seed S] [--minutes M] [--children C] [--json PATH]

The sample is drawn from all mutants, those of error messages included: from each file in proportion to how many it has,
rounded up. A mutant is killed if a test fails or runs out of time. It is no mutant if it is proved to be the same
function (tests/core/equivalent_mutants.py, and the tests of it, which are run first); a test that fails for such a one
is a false kill, and says that the proof or the test is wrong. Else, what no test kills is alive. Prints a table, the
diffs of what is alive, and the score; the exit status is 1 below 95 %, after a false kill, or if time ran out.
"""

import argparse
import importlib.metadata
import json
import math
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import libcst
from mutmut.mutation.diff_apply import get_diff_for_mutant, read_functions_from_index
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import get_mutant_name

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "core"))

from equivalent_mutants import is_equivalent  # noqa: E402  (it lies beside the tests of it)

WANTED = 0.95
MUTATED = ["fnopt/rules/*", "fnopt/transforms/*", "fnopt/schedules/*"]
MUTATED += ["fnopt/accumulate.py", "fnopt/loss_scale.py", "fnopt/step.py"]
CONFIG = f"""
[tool.mutmut]
source_paths = ["fnopt"]
only_mutate = {json.dumps(MUTATED)}
also_copy = ["docs", "README.md"]
timeout_multiplier = 5.0
timeout_constant = 10.0
pytest_add_cli_args = ["-p", "no:cacheprovider", "-x", "--no-header"]
pytest_add_cli_args_test_selection = ["tests/core", "tests/step"]
"""
COLUMNS = ("killed", "timeout", "alive", "equivalent", "false kill", "not run")


def copy_of_head(folder: Path) -> str:
    """What HEAD tracks, and mutmut's configuration; the commit."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    with (folder / "pyproject.toml").open("a") as pyproject:
        pyproject.write(CONFIG)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    return commit.stdout.strip()


def all_mutants() -> dict[str, list[str]]:
    """The names of all mutants, by file, as mutmut numbers them. Works in the copy."""
    files = sorted({path for pattern in MUTATED for path in Path().glob(f"{pattern.removesuffix('*')}*")})
    found = {str(path): mutate_file_contents(str(path), path.read_text()).mutant_names for path in files if path.suffix}
    return {path: [get_mutant_name(Path(path), name) for name in names] for path, names in found.items() if names}


def draw(mutants: dict[str, list[str]], count: int, seed: int) -> dict[str, list[str]]:
    """At least `count` of them, from each file in proportion."""
    share, rng = count / sum(map(len, mutants.values())), random.Random(seed)
    return {path: rng.sample(names, min(len(names), math.ceil(share * len(names)))) for path, names in mutants.items()}


def run(arguments: list[str], log: Path, minutes: float) -> int | None:
    """The exit status of a command in the copy; None if time ran out.

    One thread each, and no GPU: torch cannot differentiate in a fork of a process that has met one.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ""}
    with log.open("a") as output:
        process = subprocess.Popen(arguments, env=env, stdout=output, stderr=output, start_new_session=True)
        try:
            return process.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # mutants that still run


def verdicts(sample: dict[str, list[str]], proved: bool) -> dict[str, dict[str, str]]:
    """File -> mutant -> one of COLUMNS."""
    found: dict[str, dict[str, str]] = {}
    for path, names in sample.items():
        meta = Path("mutants", f"{path}.meta")
        codes = json.loads(meta.read_text())["exit_code_by_key"] if meta.exists() else {}
        found[path] = {}
        for name in names:
            if codes.get(name) is None:
                found[path][name] = "not run"
                continue
            same, status = is_equivalent(path, *functions(name, path)), status_by_exit_code[codes[name]]
            if status in ("killed", "timeout"):
                found[path][name] = "false kill" if same else status
            else:  # also what no test reaches
                found[path][name] = "equivalent" if proved and same else "alive"
    return found


def functions(name: str, path: str) -> tuple[str, str]:
    """The source of the function, and of its mutant, under the same name."""
    nodes = read_functions_from_index(name, path)
    assert nodes is not None
    return libcst.Module([nodes[0]]).code, libcst.Module([nodes[1]]).code


def print_table(found: dict[str, dict[str, str]]) -> Counter[str]:
    """The table; the sums of its columns."""
    print(f"{'file':<36}{'mutants':>8}" + "".join(f"{column:>12}" for column in COLUMNS))
    total = Counter[str]()
    for path, statuses in found.items():
        counts = Counter(statuses.values())
        total += counts
        print(f"{path:<36}{len(statuses):>8}" + "".join(f"{counts[column]:>12}" for column in COLUMNS))
    print(f"{'all':<36}{total.total():>8}" + "".join(f"{total[column]:>12}" for column in COLUMNS))
    return total


def main() -> int:
    """Copy, draw, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400, help="mutants, at least (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default 0)")
    parser.add_argument("--minutes", type=float, default=60.0, help="budget (default 60)")
    parser.add_argument("--children", type=int, default=os.cpu_count(), help="mutants at a time (default: all cores)")
    parser.add_argument("--json", type=Path, help="write every verdict to this file")
    typed = parser.parse_args()
    report, began = typed.json and typed.json.resolve(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        commit = copy_of_head(Path(folder))
        os.chdir(folder)
        mutants = all_mutants()
        sample = draw(mutants, typed.count, typed.seed)
        names = [name for drawn in sample.values() for name in drawn]
        total = sum(map(len, mutants.values()))
        print(
            f"{len(names)} of {total} mutants of {len(mutants)} files, seed {typed.seed}, commit {commit[:12]}",
            flush=True,
        )
        log = Path("mutation.log")
        tests = [sys.executable, "-m", "pytest", "-m", "slow or not slow", "tests/core/test_equivalent_mutants.py"]
        proved = run(tests, log, typed.minutes) == 0
        left = typed.minutes - (time.monotonic() - began) / 60
        mutmut = [str(Path(sys.executable).parent / "mutmut"), "run", "--max-children", str(typed.children), *names]
        status = run(mutmut, log, left)
        if status != 0:
            print(log.read_text()[-3000:], file=sys.stderr)
        found = verdicts(sample, proved)
        for path, statuses in found.items():
            for name, verdict in sorted(statuses.items()):
                if verdict in ("alive", "false kill", "timeout"):
                    print(f"\n{verdict}: {name}\n{get_diff_for_mutant(name, path=path)}")
        os.chdir(ROOT)
    print("" if proved else "\nThe tests of equivalence failed: nothing is counted as equivalent.")
    counts = print_table(found)
    killed = counts["killed"] + counts["timeout"]
    score = killed / max(1, killed + counts["alive"] + counts["not run"])
    minutes = (time.monotonic() - began) / 60
    versions = {name: importlib.metadata.version(name) for name in ("mutmut", "pytest", "hypothesis", "torch")}
    versions |= {"python": platform.python_version(), "commit": commit}
    print(f"\nscore {score:.1%} (wanted {WANTED:.0%}), seed {typed.seed}, {minutes:.0f} minutes; {versions}")
    if report:
        facts = {"score": score, "seed": typed.seed, "minutes": minutes, "children": typed.children}
        report.write_text(json.dumps({**facts, "versions": versions, "verdicts": found}, indent=1) + "\n")
    return int(score < WANTED or status != 0 or counts["false kill"] > 0)


if __name__ == "__main__":
    sys.exit(main())
