"""Mutants that are the same function: mutation testing cannot kill them, so each is proved here by drawn inputs.

A row of SAME is one changed line of one function, by its text. The test of it (test_equivalent_mutants.py) makes the
mutant, and compares it with the original on 10,000 drawn inputs. It fails for a line that is no longer there.
"""

import ast
import inspect
import math
import random
import textwrap
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import nn

import fnopt
from fnopt.rules.describe import _owned
from fnopt.rules.labels import _owners
from fnopt.rules.muon import Muon
from fnopt.rules.schedule_free import ScheduleFree
from fnopt.rules.sgd import SGD
from fnopt.schedules.cycles import cycle, restarts
from fnopt.schedules.joins import Join
from fnopt.schedules.plateaus import Plateau
from fnopt.step import StepFn


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


def cycles(rng: random.Random) -> tuple[Any, ...]:
    """Arguments as `one_cycle` gives them: three or four corners, warm-ups from none to all of the run."""
    warmup = torch.tensor(rng.choice([0.0, 1.0, rng.random()]), dtype=torch.float64)
    corners = [torch.tensor(rng.random(), dtype=torch.float64) for _ in range(rng.choice([3, 4]))]
    step = torch.tensor(rng.randint(-3, 40))
    return step, rng.randint(1, 30), warmup, corners, rng.choice(["cos", "linear"])


def periods(rng: random.Random) -> tuple[Any, ...]:
    """A period of at least one update, mostly short ones, and a multiple of at least two."""
    return int(2 ** rng.uniform(0, 62.9)), rng.choice([2, 3, rng.randint(2, 1000), 2**62])


def modules(rng: random.Random) -> tuple[Any, ...]:
    """A dict of params, or a tree of modules with some weights tied."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 2, bias=rng.random() < 0.5)
    if rng.random() < 0.5:
        second.weight = first.weight
    model = nn.Sequential(first, nn.Sequential(second, nn.LayerNorm(2)), nn.ReLU())
    return (rng.choice([model, model[1], first, {"w": torch.ones(2)}, nn.ReLU()]),)


def owned(rng: random.Random) -> tuple[Any, ...]:
    """None to three params, with names of several lengths."""
    names = rng.sample(["a", "bias", "layers.0.weight"], rng.randint(0, 3))
    return ({name: torch.zeros(rng.choice([(), (2,), (2, 3)])) for name in names},)


def plateaus(rng: random.Random) -> tuple[Any, ...]:
    """A plateau whose numbers are floats, tensors, or tensors of one shape [K]."""
    shape = [rng.randint(1, 3)]
    kinds = [lambda x: x, torch.tensor, lambda x: torch.full(shape, x)]
    numbers = {name: rng.choice(kinds)(rng.random() / 2) for name in ("lr", "factor", "threshold", "min_lr", "eps")}
    return (Plateau(**numbers, mode=rng.choice(["min", "max"])),)


def schedule_free(rng: random.Random) -> tuple[Any, ...]:
    """An update, the first or a later one, of a rule whose rate may be 0 and whose weights may be no number."""
    optimizer = fnopt.ScheduleFree(fnopt.SGD(rng.choice([0.0, rng.random()])), weight_lr_power=rng.choice([0.0, 2.0]))
    params, grads = ({"w": torch.tensor([rng.gauss(0, 1)])} for _ in range(2))
    state = optimizer.init_state(params)
    total = rng.choice([0.0, rng.random(), math.nan])
    return optimizer, grads, {**state, "weight_sum": torch.tensor(total, dtype=torch.float64)}, params


def one_step(rng: random.Random, optimizer: Any, shape: list[int], dtype: torch.dtype) -> tuple[Any, ...]:
    """Arguments of an update: the first one, or that after a first one."""
    generator = torch.Generator().manual_seed(rng.randrange(2**40))
    params, grads = ({"w": torch.randn(shape, generator=generator).to(dtype)} for _ in range(2))
    state = optimizer.init_state(params)
    if rng.random() < 0.5:
        params, state = optimizer.update(grads, state, params)
    return optimizer, grads, state, params


def momentum_steps(rng: random.Random) -> tuple[Any, ...]:
    """An update of SGD with momentum or without, damped or not, by floats and by tensors."""
    momentum = rng.choice([0.0, 0.9, torch.tensor(0.9)])
    damp, nesterov = rng.choice([(0.0, False), (0.0, not isinstance(momentum, float) or momentum > 0), (0.5, False)])
    optimizer = SGD(rng.choice([0.1, torch.tensor(0.1)]), momentum, damp, rng.choice([0.0, 0.1]), nesterov)
    return one_step(rng, optimizer, [rng.randint(0, 9)], rng.choice([torch.float32, torch.float64, torch.bfloat16]))


def muon_steps(rng: random.Random) -> tuple[Any, ...]:
    """An update of Muon, of small matrices in several dtypes, by floats and by tensors."""
    optimizer = Muon(rng.choice([0.1, torch.tensor(0.1)]), nesterov=rng.random() < 0.5, ns_steps=rng.randint(0, 2))
    dtype = rng.choice([torch.float32, torch.float64, torch.bfloat16])
    return one_step(rng, optimizer, [rng.randint(1, 3), rng.randint(1, 3)], dtype)


def protocols(rng: random.Random) -> tuple[Any, ...]:
    """Anything for self, and params."""
    return rng.choice([None, fnopt.SGD()]), {"w": torch.tensor(rng.random())}


Draw = Callable[[random.Random], tuple[Any, ...]]


def changed(function: Callable[..., Any], draw: Draw, line: str, part: str, *others: str) -> list[Same]:
    """Rows for one line, in which something else takes the place of one part."""
    assert line.count(part) == 1
    return [Same(function, line, line.replace(part, other), draw) for other in others]


def not_strict(function: Callable[..., Any], draw: Draw, line: str) -> list[Same]:
    """`strict=True` where lengths are always equal: a check of our own invariant, which no input can break."""
    return changed(function, draw, line, "strict=True", "strict=None", "", "strict=False")


SAME = [
    *not_strict(
        Join.__call__,
        joins,
        "owned = [step.clamp(begin, end - 1) - begin for begin, end in zip(begins, ends, strict=True)]",
    ),
    *not_strict(
        Join.__call__,
        joins,
        "value, *others = [values_at(own, part)[1] for own, part in zip(owned, self.schedules, strict=True)]",
    ),
    *not_strict(Join.__call__, joins, "for boundary, other in zip(self.boundaries, others, strict=True):"),
    *changed(  # the phase whose `stop` the value at its end is: beyond it, 1 and more are clamped to 1
        cycle,
        cycles,
        "done = torch.where(long, (t - begin) / torch.where(long, end - begin, 1.0), 1.0).clamp(0, 1)",
        "1.0).clamp",
        "2.0).clamp",
    ),
    *changed(  # what stands where `long` does not hold is not chosen
        cycle,
        cycles,
        "done = torch.where(long, (t - begin) / torch.where(long, end - begin, 1.0), 1.0).clamp(0, 1)",
        "begin, 1.0)",
        "begin, 2.0)",
    ),
    *changed(  # strict=False is the default
        cycle,
        cycles,
        "for begin, end, start, stop in reversed(list(zip(places, places[1:], corners, corners[1:], strict=False))):",
        "strict=False",
        "strict=None",
        "",
    ),
    *changed(  # an int64 and a float64 meet as float64
        cycle, cycles, "t = step.clamp(0, total - 1).to(warmup.dtype)", "warmup.dtype", "None"
    ),
    *changed(  # a Protocol's own method has no body
        StepFn.init_state,
        protocols,
        "def init_state(self, model: nn.Module | Tensors, /, seed: int = 0) -> TrainState: ...",
        "= 0",
        "= 1",
    ),
    *changed(  # where there are no names, nothing is that wide
        _owned, owned, "width = max((len(name) for name in params), default=0)", "default=0", "default=1"
    ),
    *changed(  # of () and [K] the longer is the greater
        Plateau.init_state,
        plateaus,
        "lr = numbers[0].expand(max((number.shape for number in numbers), key=len)).clone()",
        "key=len",
        "key=None",
        "",
    ),
    *changed(  # where the total is 0, what it is divided by is not chosen
        ScheduleFree.update,
        schedule_free,
        "c = torch.where(total > 0, weight / torch.where(total > 0, total, 1.0), 0.0)",
        "total, 1.0)",
        "total, 2.0)",
    ),
    *changed(  # a + 1 b has the bits of a + b: that damping is looked for only saves time
        SGD.update, momentum_steps, "if not is_zero(damp):  # the first gradient enters undamped", "(damp)", "(None)"
    ),
    *changed(  # bfloat16 meets the dtype of params without rounding
        Muon.update,
        muon_steps,
        "ortho = orthogonalize(direction, self.ns_coefficients, self.ns_steps, eps).to(p.dtype)",
        "p.dtype",
        "None",
    ),
    *changed(restarts, periods, "count = 0", "0", "1"),  # one period always begins
    *changed(_owners, modules, "for param in module.parameters(recurse=False):", "False", "None"),
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
