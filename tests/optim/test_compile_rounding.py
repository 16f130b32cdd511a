"""compile=True computes what the default mode does, within roundings."""

import copy

import pytest
import torch
from bits_cases import AXES, Draws, Run, combinations, draw

from fnopt import optim
from fnopt.optim import kernel, player

pytestmark = pytest.mark.usefixtures("one_thread")
ELEMENTWISE = ("AdamW", "Adam", "SGD", "RMSprop", "Adagrad")
U = 2.0**-24  # half an ulp of float32
FLAGS = {"amsgrad": True, "weight_decay": 0.1}


def structures(name):
    """One combination of flags for each that makes a formula of its own: numbers are inputs of a kernel."""
    found = {}
    for flags in combinations(name):
        found.setdefault(tuple(value if isinstance(value, bool) else bool(value) for value in flags.values()), flags)
    return list(found.values())


def take_over(run, other, change=None, factor=1.0):
    """The weights and state of another run; what `change` names times `factor`."""
    saved = copy.deepcopy(other.optimizer.state_dict())
    for state in saved["state"].values():
        state.update({what: leaf * factor for what, leaf in state.items() if what == change and leaf is not None})
    run.optimizer.load_state_dict(saved)
    for key, p in run.params.items():
        p.data.copy_(other.params[key].detach())
        p.data.mul_(factor if change == "weights" else 1.0)


def results(run):
    """Weights and memories, by what they are and whose."""
    found = {("weights", key): p.detach() for key, p in run.params.items()}
    for key, p in run.params.items():
        held = run.optimizer.state.get(p, {})
        found.update({(what, key): leaf for what, leaf in held.items() if what != "step" and leaf is not None})
    return {key: leaf.double() for key, leaf in found.items() if leaf.numel()}


def exactly(name, flags, run, grads, t, change=None):
    """The same step in float64, from numbers of which one kind is off by half an ulp of float32."""
    factor = 1 + U
    wide = Run(optim, name, flags, "float", Draws({key: p.detach().double() for key, p in run.params.items()}, []))
    take_over(wide, run, change, factor)
    scale = factor if change == "grads" else 1.0
    wide.step(t, {key: g if g is None else g.double() * scale for key, g in grads.items()})
    return results(wide)


def extent(new, old):
    """The numbers that a rounding is relative to."""
    return new.abs() + old.abs() + (new - old).abs()


def check(name, flags, draws, steps):
    """Asserts the bound of one rule, step by step from the same state; returns the mean errors of both modes, in u.

    An operation that rounds does what an exact one does to inputs of which one is off by u. So the unit is what u in
    each kind of input, in the old and new value, and in their difference changes in the result (a gradient that is
    divided by its own size hides what it changes), and there are at most 16 operations to one, in each of two modes.
    """
    compiled, default = (Run(optim, name, {**flags, **mode}, "float", draws) for mode in ({"compile": True}, {}))
    off = [], []
    for t in range(steps):
        grads = draws.grads(t)
        take_over(default, compiled)
        before, exact = results(compiled), exactly(name, flags, compiled, grads, t)
        kinds = {what for what, _ in exact} | {"grads"}
        units = {key: U * extent(leaf, before.get(key, torch.zeros_like(leaf))) for key, leaf in exact.items()}
        for kind in kinds:
            moved = exactly(name, flags, compiled, grads, t, kind)
            units = {key: unit + (moved[key] - exact[key]).abs() for key, unit in units.items()}
        for run in (compiled, default):
            run.step(t, grads)
        mine, its = results(compiled), results(default)
        assert mine.keys() == its.keys() == exact.keys()
        for key, unit in units.items():
            assert ((mine[key] - its[key]).abs() <= 2 * 16 * unit).all(), (flags, t, key)
            for found, side in zip(off, (mine, its), strict=True):
                found.append(((side[key] - exact[key]).abs() / unit.clamp(min=1e-300)).flatten())
    return [torch.cat(found).mean().item() for found in off]


@pytest.mark.parametrize(("name", "flags"), [("AdamW", FLAGS), ("SGD", {"momentum": 0.9, "nesterov": True})])
def test_compiled_is_the_default_within_rounding(name, flags):
    """Weights and memories differ by roundings alone, and are as near to float64 as in the default mode."""
    mine, its = check(name, flags, draw(), 3)
    assert 0.0 < mine <= 1.25 * its


@pytest.mark.slow
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_set_of_flags_compiled(name):
    """So it is with every combination of flags that is a formula of its own."""
    found = structures(name)
    assert len(found) >= len(AXES[name])
    for flags in found:
        draws = draw(zeros=0.0 if flags.get("eps") == 0.0 else 0.05, seed=5, without=("large", "large channels_last"))
        mine, its = check(name, flags, draws, 4)
        assert mine <= 1.25 * its, flags


def test_a_wrong_formula_is_noticed(monkeypatch):
    """Negative control: a kernel whose coefficients are off by 2^-12 is outside of the bound."""
    right = kernel._done
    monkeypatch.setattr(player, "_KERNELS", {})
    monkeypatch.setattr(kernel, "_done", lambda op, *args: right(op, *args) * (1 + 2.0**-12 * (op.fn is torch.sqrt)))
    with pytest.raises(AssertionError, match="weights"):
        check("AdamW", FLAGS, draw(without=("large", "large channels_last")), 2)
