"""Mutants that are the same function: mutation testing cannot kill them, so each is proved here by drawn inputs.

A row of SAME is one changed line of one function, by its text. The test of it (test_equivalent_mutants.py) makes the
mutant, and compares it with the original on 10,000 drawn inputs. It fails for a line that is no longer there.
"""

import ast
import inspect
import random
import textwrap
from collections.abc import Callable
from typing import Any

import attrs
import torch

import fnopt
from fnopt.schedules.joins import Join


@attrs.frozen
class Same:
    """One line of a function, what mutmut makes of it, and how arguments are drawn."""

    function: Callable[..., Any]
    before: str
    after: str
    draw: Callable[[random.Random], tuple[Any, ...]]

    @property
    def path(self) -> str:
        """The file of the function, from the root of the repository."""
        return self.function.__module__.replace(".", "/") + ".py"

    def mutant(self) -> Callable[..., Any]:
        """The function with the line changed."""
        source = textwrap.dedent(inspect.getsource(self.function))
        assert source.count(self.before) == 1, f"{self.path} has no longer, or more than once: {self.before}"
        made = dict(self.function.__globals__)
        exec(compile(source.replace(self.before, self.after), self.path, "exec"), made)
        return made[self.function.__name__]


def joins(rng: random.Random) -> tuple[Any, ...]:
    """A join of one to four schedules, and a step: an int or a tensor, also before 0 and far beyond the end."""
    parts = [
        rng.choice([fnopt.linear, fnopt.polynomial])(rng.random(), rng.random(), rng.randint(1, 9)) for _ in "1234"
    ]
    boundaries = sorted(rng.sample(range(1, 30), rng.randint(0, 3)))
    step = rng.choice([rng.randint(-3, 40), rng.randint(0, 2**62)])
    return Join(parts[: len(boundaries) + 1], boundaries), rng.choice([step, torch.tensor(step)])


def not_strict(function: Callable[..., Any], line: str, draw: Callable[[random.Random], tuple[Any, ...]]) -> list[Same]:
    """`strict=True` where lengths are always equal: a check of our own invariant, which no input can break."""
    strict = "strict=True"
    assert line.count(strict) == 1
    return [Same(function, line, line.replace(strict, other), draw) for other in ("strict=None", "", "strict=False")]


SAME = [
    *not_strict(
        Join.__call__,
        "owned = [step.clamp(begin, end - 1) - begin for begin, end in zip(begins, ends, strict=True)]",
        joins,
    ),
    *not_strict(
        Join.__call__,
        "value, *others = [values_at(own, part)[1] for own, part in zip(owned, self.schedules, strict=True)]",
        joins,
    ),
    *not_strict(Join.__call__, "for boundary, other in zip(self.boundaries, others, strict=True):", joins),
]


class _EraseCasts(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return (
            node.args[1] if isinstance(node.func, ast.Name) and node.func.id == "cast" and len(node.args) == 2 else node
        )


def without_casts(source: str) -> str:
    """The program without `cast(type, value)`, which is `value`."""
    return ast.dump(_EraseCasts().visit(ast.parse(textwrap.dedent(source))))


def is_equivalent(path: str, original: str, mutant: str) -> bool:
    """Is a mutant of a file, given as the sources of the two functions, one of those proved here?"""
    if without_casts(original) == without_casts(mutant):
        return True
    before, after = (source.splitlines() for source in (original, mutant))
    changed = [(a.strip(), b.strip()) for a, b in zip(before, after, strict=False) if a != b]
    return len(before) == len(after) and any([(row.before, row.after)] == changed for row in SAME if row.path == path)
