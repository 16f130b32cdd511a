"""What a harness hands back: how many cases it tried, what went wrong, and what was counted on the way."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATHS = [str(ROOT), str(ROOT / "tests" / "shell"), str(HERE)]


@attrs.define
class Verdict:
    """The cases of a promise; `facts` are figures beside them, by name."""

    cases: int = 0
    failures: list[str] = attrs.field(factory=list[str])
    facts: dict[str, Any] = attrs.field(factory=dict[str, Any])

    def check(self, holds: bool, what: str) -> None:
        """One case, which is a failure unless it holds."""
        self.cases += 1
        if not holds:
            self.failures.append(what)

    def count(self, name: str, more: int = 1) -> None:
        """One more of a fact."""
        self.facts[name] = self.facts.get(name, 0) + more

    def __add__(self, other: "Verdict") -> "Verdict":
        facts = {**self.facts}
        for name, value in other.facts.items():
            facts[name] = facts[name] + value if name in facts else value
        return Verdict(self.cases + other.cases, self.failures + other.failures, facts)


def total(verdicts: Iterable[Verdict]) -> Verdict:
    """All of them as one."""
    return sum(verdicts, Verdict())


CODE = """
import sys; sys.path[:0] = {paths}
import importlib, json, attrs, torch, breaks
torch.set_num_threads(1)
with breaks.broken({broken!r}):
    verdict = getattr(importlib.import_module({module!r}), {function!r})(**{arguments!r})
print(json.dumps(attrs.asdict(verdict)))
"""


def isolated(module: str, function: str, broken: str = "", prefix: Iterable[str] = (), **arguments: Any) -> Verdict:
    """The Verdict of a harness in a Python of its own: with one thread it can be forked, and its memory is its own.

    `broken` is what of fnopt is broken there; `prefix` goes before the command. Arguments are plain values.
    """
    code = CODE.format(paths=PATHS, broken=broken, module=module, function=function, arguments=arguments)
    command = [*prefix, sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module}.{function} ended with {done.returncode}: {done.stderr[-2000:]}")
    return Verdict(**json.loads(done.stdout.splitlines()[-1]))
