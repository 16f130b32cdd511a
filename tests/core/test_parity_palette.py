"""RMSprop, Adagrad, Adafactor and Muon in eager float32 equal torch.optim to the bit: weights and state, every step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_peer import (
    LR_KINDS,
    Peer,
    draw,
    first_mismatch,
    grid,
    memories,
    pair,
    plain_add,
    plain_addcmul,
    plain_lerp,
    same_bits,
)

import fnopt.rules.adafactor
import fnopt.rules.adagrad
import fnopt.rules.muon
import fnopt.rules.rmsprop
from fnopt import Adafactor, Adagrad, Muon, RMSprop

pytestmark = pytest.mark.usefixtures("one_thread")  # for Muon's products of small bfloat16 matrices
STEPS = 100
LEAVES = {"scalar": (), "empty": (0,), "matrix": (4, 5)}  # and one that is strided, one channels_last
MATRICES = {"tall": (9, 4), "one": (1, 1), "large": (12, 16)}  # and one that is strided


def combinations():
    """Every combination of flags; the kinds of learning rates take turns (five, a divisor of no number of flags)."""
    up = {"weight_decay": [0.0, 0.1], "maximize": [False, True]}
    cases = grid(RMSprop, alpha=[0.9, 0.0], momentum=[0.0, 0.9], centered=[False, True], eps=[1e-8, 1e-3], **up)
    # centered without memory, the variance of one number: rounding makes it negative, its root nan, here and in torch
    cases = [case for case in cases if case[1]["alpha"] or not case[1]["centered"]]
    cases += grid(RMSprop, alpha=[0.99, 0.5], momentum=[0.9], centered=[False, True], eps=[1e-8], **up)
    cases += grid(Adagrad, lr_decay=[0.0, 0.1], initial_accumulator_value=[0.0, 0.5], eps=[1e-10, 1e-3, 0.0], **up)
    cases += grid(Adafactor, beta2_decay=[-0.8, 0.0], eps=[(None, 1e-3), (1e-30, 1e-2), (0.1, 0.0)], d=[1.0, 2.0], **up)
    cases += grid(
        Muon,
        weight_decay=[0.0, 0.1],
        momentum=[0.95, 0.0],
        nesterov=[False, True],
        adjust_lr_fn=[None, "original", "match_rms_adamw"],
        ns_steps=[5, 1],
    )
    return [(kind, flags, LR_KINDS[place % 5]) for place, (kind, flags) in enumerate(cases)]


COMBINATIONS = combinations()


def floats(kind, flags):
    """The flags that are floats also where all others are tensors: structure, and a momentum that is off.

    Momentum as a tensor 0 keeps a buffer (tensors are not read); torch, which reads it, keeps none.
    """
    off = ["momentum"] if kind is RMSprop and not flags["momentum"] else []
    return ["ns_coefficients", *off, *(["eps"] if kind is Adafactor else [])]


def cases(kind, flags, lr, seed, steps, **more):
    """Params that the rule takes and gradients; eps = 0 gets no zero gradient, which would be 0/0 on both sides.

    So does Adafactor's 1e-30 of the paper, whose square is 0 in float32.
    """
    zeros = 0.0 if flags.get("eps") in (0.0, (1e-30, 1e-2)) else 0.05
    params, grads = draw(seed, steps=steps, zeros=zeros, shapes=MATRICES if kind is Muon else LEAVES, **more)
    without = set[str]()
    if kind is Muon:
        without = {name for name, p in params.items() if p.ndim != 2}
    if kind is Adafactor:
        without.add("empty")  # torch divides by its number of entries
        if lr == "tensor" and flags["weight_decay"]:
            without.add("scalar")  # torch shrinks it in float64, see test_a_0d_parameter_under_a_tensor_lr
    kept = {name: p for name, p in params.items() if name not in without}
    return kept, [{name: grad[name] for name in kept} for grad in grads]


def run(kind, flags, lr, seed, steps=STEPS):
    """The first mismatch."""
    ours, lr_at = pair(kind, flags, lr, floats(kind, flags))
    params, grads = cases(kind, flags, lr, seed, steps)
    peer = Peer(kind, flags, params)
    mismatch = first_mismatch(ours, lr_at, peer, params, grads)
    assert all(leaf.isfinite().all() for leaf in peer.leaves.values())
    return mismatch


@pytest.mark.parametrize("place", range(len(COMBINATIONS)))
def test_float32_equals_torch_to_the_bit(place):
    """Weights, memories and step equal torch.optim's to the bit after each step, whatever the flags."""
    assert run(*COMBINATIONS[place], seed=place) is None


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(COMBINATIONS)))
def test_float32_equals_torch_to_the_bit_for_long(place):
    """The same over 500 steps of other draws."""
    assert run(*COMBINATIONS[place], seed=1000 + place, steps=500) is None


def test_combinations_are_many(capsys):
    """At least 200 different combinations of flags and numbers are compared."""
    count = len({repr(case) for case in COMBINATIONS})
    kinds = {kind.__name__: sum(case[0] is kind for case in COMBINATIONS) for kind, _, _ in COMBINATIONS}
    with capsys.disabled():
        print(f"\nparity with torch.optim, float32: {count} combinations x {STEPS} steps {kinds}")
    assert count == len(COMBINATIONS) >= 200
    assert all({lr for k, _, lr in COMBINATIONS if k.__name__ == kind} == set(LR_KINDS) for kind in kinds)


@pytest.mark.parametrize("kind", [RMSprop, Adagrad, Adafactor, Muon])
def test_drawn_gradients_are_mostly_not_zero(kind):
    """At least nine entries in ten of what is fed differ from zero, and few equal each other."""
    _, grads = cases(kind, {"weight_decay": 0.0}, "float", 0, STEPS)
    entries = torch.cat([leaf.flatten() for grad in grads for leaf in grad.values()])
    assert (entries != 0).double().mean() > 0.9
    assert len(entries.unique()) > 0.9 * len(entries)


numbers = st.floats(width=32)  # nan, infinities, subnormals and both zeros among them
ELEMENTWISE = [place for place, case in enumerate(COMBINATIONS) if case[0] in (RMSprop, Adagrad)]


@settings(max_examples=200)
@given(
    place=st.sampled_from(ELEMENTWISE),
    rows=st.lists(st.tuples(numbers, numbers, numbers, numbers, st.floats(0.0, width=32)), min_size=1, max_size=9),
    t=st.integers(0, 2**23),
)
def test_one_step_from_any_floats_equals_torch_to_the_bit(place, rows, t):
    """From any params, gradients and state, nan and infinities and subnormals too, one step equals torch.optim's."""
    kind, flags, lr = COMBINATIONS[place]
    # what is off stays a float here: torch reads a tensor 0 and leaves decay out, fnopt adds 0 times an infinite p
    off = [name for name, value in flags.items() if not value]
    ours, lr_at = pair(kind, flags, lr, [*floats(kind, flags), *off])
    p, g, h, b, v = torch.tensor(rows, dtype=torch.float32).T
    drawn = {"square_avg": v, "sum": v, "grad_avg": h, "momentum_buffer": b}
    fresh = ours.init_state({"p": p})
    state = {what: {"p": drawn[what]} if memory else {} for what, memory in fresh.items() if what != "step"}
    peer = Peer(kind, flags, {"p": p})
    peer.load({**state, "step": torch.tensor(t)})
    params, state = ours.update({"p": g}, {**state, "step": torch.tensor(t)}, {"p": p})
    peer.step({"p": g}, lr_at(t))
    assert all(same_bits(mine, theirs) for _, _, mine, theirs in memories(params, state, peer))


@pytest.mark.parametrize(
    ("module", "name", "broken", "kind"),
    [
        (torch, "addcmul", plain_addcmul, RMSprop),
        (fnopt.rules.rmsprop, "scaled_add", plain_add, RMSprop),
        (torch, "addcmul", plain_addcmul, Adagrad),
        (fnopt.rules.adagrad, "precise", lambda device: torch.float32, Adagrad),
        (torch, "lerp", plain_lerp, Adafactor),
        (fnopt.rules.adafactor, "precise", lambda device: torch.float32, Adafactor),
        (torch, "lerp", plain_lerp, Muon),
        (fnopt.rules.muon, "scaled_add", plain_add, Muon),
    ],
)
def test_the_plain_formula_is_noticed(monkeypatch, module, name, broken, kind):
    """Negative control: with the formula of the paper in place of torch's operation, the comparison reports it."""
    flags = {"weight_decay": 0.1, **{"RMSprop": {"momentum": 0.9}, "Adagrad": {"lr_decay": 0.1}}.get(kind.__name__, {})}
    assert run(kind, flags, "float", seed=0) is None
    monkeypatch.setattr(module, name, broken)
    assert run(kind, flags, "float", seed=0) is not None


@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_centered_rmsprop_under_a_constant_gradient_is_torchs(alpha):
    """There v - h^2 is 0 but for rounding, and may be less: its root is nan then, at the same step as in torch."""
    flags, params = {"alpha": alpha, "centered": True}, {"w": torch.tensor([0.1, 0.11, 0.13, 0.17, 0.19])}
    peer = Peer(RMSprop, flags, params)
    assert first_mismatch(RMSprop(lr=1e-3, **flags), lambda t: 1e-3, peer, params, [params] * 200) is None
    assert not peer.leaves["w"].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 3), (0,)])
def test_adafactor_of_nothing_remembers_zeros(shape):
    """A parameter without entries, which torch refuses, has a state whose form stays, and zeros in it."""
    params, ours = {"w": torch.zeros(shape)}, Adafactor()
    state = ours.init_state(params)
    new, after = ours.update(params, state, params)
    assert new["w"].shape == shape
    for what, memory in state.items():
        for name, leaf in memory.items() if what != "step" else ():
            assert torch.equal(after[what][name], leaf)
    if len(shape) > 1:
        assert state["row_var"]["w"].shape == (*shape[:-1], 1)
        assert state["col_var"]["w"].shape == (*shape[:-2], 1, shape[-1])
