"""Eager float32 on the CPU equals torch.optim to the bit: weights and state, after each of 200 steps."""

from itertools import product

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

import fnopt.rules.adamw
import fnopt.rules.sgd
from fnopt import SGD, Adam, AdamW, evolve


def combinations():
    adam = {
        "betas": [(0.9, 0.999), (0.0, 0.99), (0.5, 0.0), (0.0, 0.0)],
        "weight_decay": [0.0, 0.1],
        "amsgrad": [False, True],
        "maximize": [False, True],
    }
    sgd = {
        "momentum": [0.0, 0.9],
        "dampening": [0.0, 0.6],
        "nesterov": [False, True],
        "weight_decay": [0.0, 0.1],
        "maximize": [False, True],
    }
    both = grid(AdamW, eps=[1e-8, 0.0], **adam) + grid(Adam, eps=[1e-3, 1e-15], **adam)
    cases = [(kind, flags, LR_KINDS[place % 5]) for place, (kind, flags) in enumerate(both)]
    for (_, flags), lr in product(grid(SGD, **sgd), LR_KINDS):
        legal = not flags["nesterov"] or (flags["momentum"] and not flags["dampening"])
        # momentum as a tensor 0 keeps a buffer (tensors are not read); torch, which reads it, keeps none
        if legal and (lr != "all tensors" or flags["momentum"]):
            cases.append((SGD, flags, lr))
    return cases


COMBINATIONS = combinations()


def unread(flags):
    """The dampening that Nesterov refuses is known to be off only as a float."""
    return [name for name, value in flags.items() if flags.get("nesterov") and not value]


def run(kind, flags, lr, seed):
    """The first mismatch of 200 steps; eps = 0 gets no zero gradient, which would be 0/0 = nan on both sides."""
    ours, lr_at = pair(kind, flags, lr, unread(flags))
    params, grads = draw(seed, zeros=0.05 if flags.get("eps", 1.0) else 0.0)
    if lr == "tensor" and kind is AdamW and flags["weight_decay"]:
        del params["scalar"]  # see test_a_0d_parameter_under_a_tensor_lr
        grads = [{name: grad[name] for name in params} for grad in grads]
    peer = Peer(kind, flags, params)
    mismatch = first_mismatch(ours, lr_at, peer, params, grads)
    assert all(leaf.isfinite().all() for leaf in peer.leaves.values())
    return mismatch


@pytest.mark.parametrize("place", range(len(COMBINATIONS)))
def test_float32_equals_torch_to_the_bit(place):
    """Weights, moments and step equal torch.optim's to the bit after each of 200 steps, whatever the flags."""
    assert run(*COMBINATIONS[place], seed=place) is None


def test_combinations_are_many(capsys):
    """At least 200 different combinations of flags and numbers are compared."""
    count = len({repr(case) for case in COMBINATIONS})
    with capsys.disabled():
        print(f"\nparity with torch.optim, float32: {count} combinations x 200 steps, 7 layouts of params")
    assert count == len(COMBINATIONS) >= 200


@pytest.mark.parametrize("zeros", [0.05, 0.0])
def test_drawn_gradients_are_mostly_not_zero(zeros):
    """At least nine entries in ten of what the parity tests feed differ from zero, and few equal each other."""
    for seed in range(5):
        _, grads = draw(seed, zeros=zeros)
        entries = torch.cat([leaf.flatten() for grad in grads for leaf in grad.values()])
        assert (entries != 0).double().mean() > 0.9
        assert len(entries.unique()) > 0.9 * len(entries)


floats = st.floats(width=32)  # nan, infinities, subnormals and both zeros among them


@settings(max_examples=200, deadline=None)
@given(
    place=st.integers(0, len(COMBINATIONS) - 1),
    rows=st.lists(st.tuples(floats, floats, floats, st.floats(0.0, width=32)), min_size=1, max_size=9),
    t=st.integers(0, 2**23),
)
def test_one_step_from_any_floats_equals_torch_to_the_bit(place, rows, t):
    """From any params, gradients and state, nan and infinities and subnormals too, one step equals torch.optim's."""
    kind, flags, lr = COMBINATIONS[place]
    # what is off stays a float here: torch reads a tensor 0 and leaves decay out, fnopt adds 0 times an infinite p
    ours, lr_at = pair(kind, flags, lr, [name for name, value in flags.items() if not value])
    p, g, m, v = torch.tensor(rows, dtype=torch.float32).T
    params = {"p": p}
    drawn = {"exp_avg": m, "exp_avg_sq": v, "max_exp_avg_sq": v.flip(0), "momentum_buffer": m}
    state = {what: {"p": drawn[what]} if memory else {} for what, memory in _memories(ours.init_state(params))}
    if kind is SGD:
        t += 1  # at step 0 torch takes the gradient for the buffer, whatever the buffer was
    peer = Peer(kind, flags, params)
    peer.load({**state, "step": torch.tensor(t)})
    params, state = ours.update({"p": g}, {**state, "step": torch.tensor(t)}, params)
    peer.step({"p": g}, lr_at(t))
    assert all(same_bits(mine, theirs) for _, _, mine, theirs in memories(params, state, peer))


def _memories(state):
    return [(what, memory) for what, memory in state.items() if what != "step"]


def power_in_float32(base, exponent):
    return torch.pow(torch.as_tensor(base, dtype=torch.float32), exponent.float())


@pytest.mark.parametrize(
    ("module", "name", "broken", "kind"),
    [
        (torch, "lerp", plain_lerp, AdamW),
        (torch, "addcmul", plain_addcmul, AdamW),
        (fnopt.rules.adamw, "power", power_in_float32, AdamW),
        (fnopt.rules.adamw, "power", power_in_float32, Adam),
        (fnopt.rules.adam, "scaled_add", plain_add, Adam),
        (fnopt.rules.sgd, "scaled_add", plain_add, SGD),
    ],
)
def test_the_plain_formula_is_noticed(monkeypatch, module, name, broken, kind):
    """Negative control: with the formula of the paper in place of torch's operation, the comparison reports it."""
    flags = {"weight_decay": 0.1, **({"momentum": 0.9} if kind is SGD else {})}
    assert run(kind, flags, "float", seed=0) is None
    monkeypatch.setattr(module, name, broken)
    assert run(kind, flags, "float", seed=0) is not None


def test_a_0d_parameter_under_a_tensor_lr():
    """A 0-d parameter decayed with a tensor lr: torch multiplies in float64, fnopt in float32: two ulp."""
    flags, lr = {"weight_decay": 0.1}, torch.tensor(0.01, dtype=torch.float64)
    ours = AdamW(lr=lr, **flags)
    params, grads = draw(0)
    peer = Peer(AdamW, flags, {"scalar": params["scalar"]})
    worst = 0.0
    for t, drawn in enumerate(grads):
        params, state = peer.state(ours, t)
        grad = {"scalar": drawn["scalar"]}
        new, _ = ours.update(grad, state, params)
        peer.step(grad, lr)
        ulp = torch.finfo(torch.float32).eps * max(params["scalar"].abs(), new["scalar"].abs())
        worst = max(worst, float((new["scalar"] - peer.leaves["scalar"].detach()).abs() / ulp))
    # half an ulp each for our coefficient, product and sum, and for torch's last rounding
    assert 0.0 < worst <= 2.0


@given(st.integers(0, 2**32), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.sampled_from([0.0, 0.9]), st.booleans())
def test_decoupled_decay_of_sgd_shrinks_the_weights_first(seed, lr, decay, momentum, maximize):
    """SGD's decoupled decay, which torch lacks: to the bit the update without decay, from p times 1 - lr wd."""
    params, (grad, *_) = draw(seed, steps=1)
    plain = SGD(lr=lr, momentum=momentum, maximize=maximize)
    decayed, state = evolve(plain, weight_decay=decay, decoupled_weight_decay=True), plain.init_state(params)
    shrunk = {name: p * (1 - lr * decay) for name, p in params.items()}
    ours, theirs = decayed.update(grad, state, params), plain.update(grad, state, shrunk)
    for mine, other in zip(ours[0].values(), theirs[0].values(), strict=True):
        assert same_bits(mine, other)
    for (_, mine), (_, other) in zip(_memories(ours[1]), _memories(theirs[1]), strict=True):
        assert all(same_bits(mine[name], other[name]) for name in mine)


def test_decoupled_decay_alone_is_a_geometric_series():
    """With gradients of zero, t updates with decoupled decay leave p (1 - lr wd)^t, in float64 to t roundings."""
    optimizer = SGD(lr=0.1, weight_decay=0.5, momentum=0.9, decoupled_weight_decay=True)
    first, _ = draw(0, torch.float64, steps=1)
    params, state, zeros = first, optimizer.init_state(first), {name: torch.zeros_like(p) for name, p in first.items()}
    for _ in range(100):
        params, state = optimizer.update(zeros, state, params)
    for name, p in params.items():
        # one rounding per step, and the coefficient's own, which the power multiplies by 100
        assert torch.allclose(p, first[name] * 0.95**100, rtol=100 * 2**-52, atol=0.0)
