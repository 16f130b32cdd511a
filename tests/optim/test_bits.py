"""fnopt.optim equals torch.optim to the bit: weights and the whole state_dict, its keys, order, dtypes and layouts."""

import copy
import functools
import importlib

import pytest
import torch
from bits_cases import SEVEN, Draws, Run, combinations, draw, draws_for, every, first_difference, lr_kinds
from torch.utils._pytree import tree_map

from fnopt import optim
from fnopt.optim import player

pytestmark = pytest.mark.usefixtures("one_thread")
EVERY = every()
SAMPLE = EVERY[::7]  # seven is in step with no axis of the grid
ELEMENTWISE = ("AdamW", "Adam", "SGD", "RMSprop", "Adagrad")
HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("place", range(len(SAMPLE)))
def test_float32_equals_torch_to_the_bit(place):
    """A seventh of all combinations of flags agrees with torch after each of 12 steps."""
    assert first_difference(*SAMPLE[place], steps=12) is None


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(EVERY)))
def test_float32_equals_torch_to_the_bit_for_long(place):
    """Every combination of flags agrees with torch after each of 200 steps."""
    name, flags, lr = EVERY[place]
    assert first_difference(name, flags, lr, 200, draws_for(name, flags, seed=1)) is None


@pytest.mark.slow
def test_every_combination_with_every_kind_of_learning_rate():
    """The product of both axes agrees with torch after each of 6 steps, which makes 0 mismatches in thousands."""
    for name in SEVEN:
        for flags in combinations(name):
            draws = draws_for(name, flags, without=("large", "large channels_last", "empty"))
            for lr in lr_kinds(name):
                assert first_difference(name, flags, lr, 6, draws) is None, (name, flags, lr)


def test_combinations_are_many(capsys):
    """At least 400 different combinations are compared, 60 of them in the quick suite."""
    counts = {name: sum(case[0] == name for case in EVERY) for name in SEVEN}
    with capsys.disabled():
        print(f"\nfnopt.optim against torch.optim, float32: {len(SAMPLE)} of {len(EVERY)} combinations {counts}")
    assert len({repr(case) for case in EVERY}) == len(EVERY) >= 400
    assert len(SAMPLE) >= 60
    for cases in (EVERY, SAMPLE):
        used = {kind: {lr for name, _, lr in cases if name == kind} for kind in SEVEN if counts[kind] > 35}
        assert all(found == set(lr_kinds(kind)) for kind, found in used.items())


@pytest.mark.parametrize("name", SEVEN)
def test_draws_are_worth_comparing(name):
    """Nine entries in ten of the gradients differ from zero; every class meets large leaves and missing gradients."""
    draws = draws_for(name, {})
    entries = torch.cat([g.flatten() for grads in draws.pool for g in grads.values()])
    assert (entries != 0).double().mean() > 0.9
    assert max(p.numel() for p in draws.params.values()) > 1 << 15
    missing = [[key for key, g in draws.grads(t).items() if g is None] for t in range(5)]
    assert any(missing)
    assert not all(missing)


@pytest.mark.parametrize("name", SEVEN)
def test_more_entries_than_a_pass(name):
    """A tensor of more than 2**20 entries, updated in several passes, has torch's bits, as its state has."""
    flags = {"ns_steps": 1} if name == "Muon" else {"weight_decay": 0.1, "maximize": True}
    gen = torch.Generator().manual_seed(3)
    big = {"big": torch.randn(1031, 1033, generator=gen), "small": torch.randn(3, 2, generator=gen)}
    pool = [{key: torch.randn(p.shape, generator=gen) for key, p in big.items()}] * 11
    assert big["big"].numel() > 1 << 20
    assert first_difference(name, flags, "by hand", 2, Draws(big, pool)) is None


@pytest.mark.parametrize("name", SEVEN)
def test_float64_equals_torch_to_the_bit(name):
    """In float64, too, all bits are torch's: here a quotient and a root are torch's own operations, in its order."""
    for flags in combinations(name)[::11]:
        draws = draws_for(name, flags, dtype=torch.float64, **({} if name == "Muon" else {"without": ("empty",)}))
        assert first_difference(name, flags, "by hand", 5, draws) is None, flags


def joined(name, flags):
    """Is the decay added to the gradient, which torch does in complex arithmetic?"""
    return bool(flags["weight_decay"]) and name != "AdamW" and not flags.get("decoupled_weight_decay")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_complex_equals_torch(name, dtype):
    """Complex parameters have torch's bits, but for SGD and decay in the gradient.

    There torch multiplies a complex tensor by a number and rounds the product, where on the pair of its parts the
    operation is fused: all bits are those of torch.optim on pairs.
    """
    for flags in combinations(name)[::7]:
        draws = draws_for(name, flags, dtype=dtype)
        in_pairs = name == "SGD" or joined(name, flags)
        assert first_difference(name, flags, "float", 4, draws, theirs_in_pairs=in_pairs) is None, flags


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_half_precision_equals_torch_to_the_bit(name, dtype):
    """Elementwise rules round to half precision after each of torch's operations, and so have its bits."""
    for flags in combinations(name)[::7]:
        draws = draws_for(name, flags, dtype=dtype, decades=1, zeros=0.0)
        assert first_difference(name, flags, "by hand", 4, draws, finite=False) is None, flags


def wide(value):
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in HALVES else value


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["Adafactor", "Muon"])
def test_half_precision_of_whole_parameters_is_float32_rounded_once(name, dtype):
    """A step in half precision is, to the bit, that in float32 from the same weights and state, rounded."""
    for flags in combinations(name)[::9]:
        if flags.get("eps") == (None, 1e-3):
            continue  # None is the epsilon of the dtype
        draws = draws_for(name, flags, dtype=dtype, decades=1)
        half = Run(optim, name, flags, "float", draws)
        for t in range(3):
            full = Run(optim, name, flags, "float", Draws({k: p.detach().float() for k, p in half.params.items()}, []))
            full.optimizer.load_state_dict(tree_map(wide, copy.deepcopy(half.optimizer.state_dict())))
            grads = draws.grads(t)
            full.step(t, {key: g if g is None else g.float() for key, g in grads.items()})
            half.step(t, grads)
            for key, p in half.params.items():
                assert p.dtype == dtype
                assert torch.equal(p, full.params[key].to(dtype)), (flags, key)
                for what, leaf in half.optimizer.state.get(p, {}).items():
                    exact = full.optimizer.state[full.params[key]][what]
                    assert torch.equal(leaf, exact.to(leaf.dtype)), (flags, key, what)


@pytest.mark.parametrize("name", ["Adafactor", "Muon"])
def test_half_precision_of_whole_parameters_is_nearer_to_float64(name):
    """Rounded once, their bfloat16 weights are on average nearer to those of torch in float64 than torch's own are."""
    errors = {torch.optim: [], optim: []}
    for flags in combinations(name)[::5]:
        if flags.get("eps") == (None, 1e-3):
            continue
        draws = draws_for(name, flags, dtype=torch.bfloat16, decades=1)
        exact = Run(torch.optim, name, flags, "float", Draws({k: p.double() for k, p in draws.params.items()}, []))
        exact.step(0, {key: g if g is None else g.double() for key, g in draws.grads(0).items()})
        for module, found in errors.items():
            run = Run(module, name, flags, "float", draws)
            run.step(0, draws.grads(0))
            off = [((p - exact.params[key]).abs() / (1 + p.abs())).flatten() for key, p in run.params.items()]
            found.append(torch.cat(off).mean().item())
    assert sum(errors[optim]) < sum(errors[torch.optim])


def plain_lerp(m, g, w):  # what the papers write
    return m + w * (g - m)


def plain_addcmul(v, a, b):
    return v + a * b


def plain_add(a, value, b):
    return a + value * b


def rounded_power(base, exponent):
    return (base * (1 + 2**-25)) ** exponent.double()  # a beta that was rounded to float32


@pytest.mark.parametrize(
    ("module", "function", "broken", "name"),
    [
        (torch, "lerp", plain_lerp, "AdamW"),
        (torch, "addcmul", plain_addcmul, "AdamW"),
        ("fnopt.rules.adamw", "power", rounded_power, "AdamW"),
        ("fnopt.rules.adam", "scaled_add", plain_add, "Adam"),
        ("fnopt.rules.sgd", "scaled_add", plain_add, "SGD"),
        (torch, "addcmul", plain_addcmul, "RMSprop"),
        (torch, "addcmul", plain_addcmul, "Adagrad"),
        ("fnopt.rules.adafactor", "precise", lambda device: torch.float32, "Adafactor"),
        ("fnopt.rules.muon", "scaled_add", plain_add, "Muon"),
    ],
)
def test_the_plain_formula_is_noticed(monkeypatch, module, function, broken, name):
    """Negative control: with the formula of the paper in place of torch's operation, the comparison reports it."""
    flags = {"weight_decay": 0.1}
    draws = draw(matrices=name == "Muon", without=("empty",))
    run = functools.partial(first_difference, name, flags, "float", 12, draws)
    assert run() is None
    monkeypatch.setattr(player, "_TAPES", {})  # what was recorded before knows nothing of the mistake
    monkeypatch.setattr(importlib.import_module(module) if isinstance(module, str) else module, function, broken)
    assert run() is not None
