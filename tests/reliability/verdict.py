"""What a harness hands back: how many cases it tried, what went wrong, and what was counted on the way."""

import atexit
import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import attrs

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATHS = [str(ROOT), *(str(ROOT / "tests" / room) for room in ("shell", "trainer")), str(HERE)]


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


SERVER = """
import sys; sys.path[:0] = {paths}
import torch, breaks, verdict
torch.set_num_threads(1)
verdict.serve()
"""


def isolated(module: str, function: str, broken: str = "", prefix: Sequence[str] = (), **arguments: Any) -> Verdict:
    """The Verdict of a harness in a process of its own: with one thread it can be forked, and its memory is its own.

    `broken` is what of fnopt is broken there; with a `prefix` of a command it is a new Python below that.
    """
    request = json.dumps({"module": module, "function": function, "broken": broken, "arguments": arguments})
    server = _server(tuple(prefix))
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(request + "\n")
    server.stdin.flush()
    found = json.loads(server.stdout.readline() or '{"error": "the process died"}')
    if "error" in found:
        raise RuntimeError(f"{module}.{function}: {found['error']}")
    return Verdict(**found)


@cache
def _server(prefix: tuple[str, ...]) -> "subprocess.Popen[str]":
    """A Python that has imported torch, and forks for each request; it ends when this process does."""
    command = [*prefix, sys.executable, "-W", "error", "-c", SERVER.format(paths=PATHS)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)  # closes its input
    return process


def serve() -> None:
    """Answer requests, each line by a line."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            print(json.dumps(_answer(**json.loads(line))), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


def _answer(module: str, function: str, broken: str, arguments: dict[str, Any]) -> dict[str, Any]:
    import breaks

    try:
        with breaks.broken(broken):
            return attrs.asdict(getattr(importlib.import_module(module), function)(**arguments))
    except BaseException:
        return {"error": traceback.format_exc()}
