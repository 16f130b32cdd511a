"""Every promise of reliability, tried with the harnesses of tests/reliability; makes docs/reliability.md of it.

    python tests/bench/reliability.py [P1 P4 …] [--only-page]

All takes about half an hour on one core; a promise that is named is tried again, and the others keep their figures,
which are in tests/bench/reliability.json. A peer that is not installed is a missing row. P23 is timing: nothing else
should run beside it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "shell"), str(ROOT / "tests" / "reliability")]

import torch  # noqa: E402
from harness import versions  # noqa: E402
from promises import PROMISES, Promise  # noqa: E402

FIGURES, PAGE = Path(__file__).with_suffix(".json"), ROOT / "docs" / "reliability.md"
ABOUT = """# Reliability

Printed by `python tests/bench/reliability.py`; what was counted is in `tests/bench/reliability.json`, the harnesses are
in `tests/reliability`, where a shorter run of each is a test. A case is one thing that was tried; a failure is one
after which the promise did not hold. To show that a harness would notice, fnopt is then broken on purpose, and the
failures that follow are counted. Beside that stands what others gave in the same harness, where it applies.

| | promise | cases | failures | counted on the way | broken on purpose: failures | others |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Try, keep the figures, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("promises", nargs="*", metavar="PROMISE", help=f"of {' '.join(PROMISES)}; none: all")
    parser.add_argument("--only-page", action="store_true", help="from the figures that are there")
    typed = parser.parse_args()
    if strange := sorted({*typed.promises} - PROMISES.keys()):
        parser.error(f"there are no promises {strange}")
    torch.set_num_threads(1)
    found = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for name in [] if typed.only_page else typed.promises or PROMISES:
        begin = time.perf_counter()
        found[name] = tried(PROMISES[name])
        print(row(name, found[name]), f"{time.perf_counter() - begin:.0f} s", flush=True)
        FIGURES.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page(found))


def tried(promise: Promise) -> dict[str, Any]:
    """The figures of a promise; a peer that fails to run is left out, with the reason."""
    kept = attrs.asdict(promise.run())
    kept["broken"] = {what: len(run(what).failures) for what, run in promise.controls.items()}
    kept["peers"] = {name: _or_missing(run) for name, run in promise.peers.items()}
    return {**kept, "versions": versions()}


def _or_missing(run: Callable[[], str]) -> str:
    try:
        return run()
    except ImportError as error:
        return f"missing: {error}"


def page(found: dict[str, Any]) -> str:
    """The page of these figures."""
    used: dict[str, str] = {}
    for kept in found.values():
        used |= kept["versions"]
    rows = [row(name, found[name]) for name in PROMISES if name in found]
    failures = [f"- {name}: {text}" for name in PROMISES if name in found for text in found[name]["failures"][:5]]
    seen = "\n\n## Failures\n\n" + "\n".join(failures) if failures else ""
    notes = "\n\n## What a promise means\n\n" + "\n".join(f"- **{n}.** {p.about}" for n, p in PROMISES.items())
    return ABOUT + "\n".join(rows) + seen + notes + "\n\nWith " + ", ".join(f"{k} {v}" for k, v in used.items()) + ".\n"


def row(name: str, kept: dict[str, Any]) -> str:
    """A line of the table."""
    facts = ", ".join(f"{what}: {_number(value)}" for what, value in kept["facts"].items())
    broken = "; ".join(f"{what}: {_number(count)}" for what, count in kept["broken"].items())
    peers = "; ".join(f"{peer}: {text}" for peer, text in kept["peers"].items() if not text.startswith("missing"))
    counts = f"{_number(kept['cases'])} | {_number(len(kept['failures']))}"
    return f"| {name} | {PROMISES[name].what} | {counts} | {facts} | {broken} | {peers} |"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


if __name__ == "__main__":
    main()
