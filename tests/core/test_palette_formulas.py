"""Lion, ScheduleFree and lookahead against loops over Python floats, written from the papers, one step at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_peer import draw, same_bits

from fnopt import (
    SGD,
    AdamW,
    Lion,
    ScheduleFree,
)

laws = settings(max_examples=20)
seeds = st.integers(0, 2**32)
UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}  # half an ulp of 1


def rows(*tensors):
    """The entries of tensors of one shape, side by side, as Python floats."""
    return zip(*(tensor.double().flatten().tolist() for tensor in tensors), strict=True)


def within(mine, expected):
    """Is each entry within its slack of what a formula in float64 gives? `expected` is (value, slack) of each."""
    entries = mine.double().flatten().tolist()
    return all(abs(entry - value) <= slack for entry, (value, slack) in zip(entries, expected, strict=True))


@laws
@given(seeds, st.floats(0.0, 0.99), st.floats(0.0, 0.99), st.floats(1e-4, 1.0), st.floats(0.0, 1.0), st.booleans())
@pytest.mark.parametrize("dtype", UNIT)
def test_lion_is_algorithm_2(dtype, seed, b1, b2, lr, decay, maximize):
    """From the same state each of p and m is the paper's; a sign may differ only where what it is of is 0 to rounding.

    m and the interpolation: a rounded coefficient, a difference and a fused sum, 4 u of |m| + |g|. p: coefficient,
    product and sum, 4 u of |p|, and as much of lr.
    """
    u, lion = 2 * UNIT[dtype], Lion(lr=lr, betas=(b1, b2), weight_decay=decay, maximize=maximize)
    params, grads = draw(seed, dtype, steps=20, zeros=0.0, decades=2)
    state, doubtful, entries, way = lion.init_state(params), 0, 0, -1.0 if maximize else 1.0
    for grad in grads:
        new, after = lion.update(grad, state, params)
        for name, p in params.items():
            weights, moments = [], []
            for w, g, m in rows(p, way * grad[name], state["exp_avg"][name]):
                between, slack = b1 * m + (1 - b1) * g, 4 * u * (abs(m) + abs(g))
                unsure = abs(between) <= slack
                doubtful, entries = doubtful + unsure, entries + 1
                expected = w * (1 - lr * decay) - lr * math.copysign(1.0, between)
                weights.append((expected, 4 * u * (abs(w) + lr) + (2 * lr if unsure else 0.0)))
                moments.append((b2 * m + (1 - b2) * g, slack))
            assert within(new[name], weights)
            assert within(after["exp_avg"][name], moments)
        params, state = new, after
    assert doubtful <= 0.01 * entries


@laws
@given(seeds, st.integers(-40, 40))
def test_lion_does_not_see_the_scale_of_gradients(seed, exponent):
    """Gradients times 2^k, from the first on, give the same weights to the bit: nothing is rounded differently.

    Domain: gradients of 2^-10 … 2^10 or so, and k of at most 40: nothing underflows in float32.
    """
    lion = Lion(lr=0.01, weight_decay=0.1)
    params, grads = draw(seed, steps=30, decades=2)
    one, other, state, scaled = params, params, lion.init_state(params), lion.init_state(params)
    for grad in grads:
        one, state = lion.update(grad, state, one)
        other, scaled = lion.update({name: g * 2.0**exponent for name, g in grad.items()}, scaled, other)
    assert all(same_bits(one[name], other[name]) for name in params)
    assert not any(same_bits(one[name], p) for name, p in params.items() if p.numel())


def test_an_optimizer_that_sees_the_scale_is_noticed():
    """Negative control: with a momentum whose gradients count by size, SGD's, weights differ."""
    params, (grad, *_) = draw(0, steps=1)
    sgd = SGD(0.01)
    one, _ = sgd.update(grad, sgd.init_state(params), params)
    other, _ = sgd.update({name: 2 * g for name, g in grad.items()}, sgd.init_state(params), params)
    assert not all(same_bits(one[name], other[name]) for name in params)


def up_and_down(step):
    """A warm-up that begins at 0, then a decay: the largest rate so far is none of the current one's."""
    t = step.double()
    return 0.1 * torch.minimum(t / 5, 1.0 / (1.0 + (t - 5).clamp(min=0.0)))


INSIDE = {
    "sgd": SGD,
    "sgd with decay": lambda lr: SGD(lr, weight_decay=0.1, decoupled_weight_decay=True),
    "adamw": lambda lr: AdamW(lr, betas=(0.0, 0.999), eps=1e-3, weight_decay=0.1),
}


def inner_step(kind, z, g, v, t, lr, u):
    """What the optimizer inside makes of one z, and its slack 4 u |z| + 13 u |update|, see test_parity_dtypes."""
    if kind == "adamw":
        v = 0.999 * v + 0.001 * g * g
        update = lr * g / (math.sqrt(v / (1 - 0.999**t)) + 1e-3)
    else:
        update = lr * g
    decay = 0.0 if kind == "sgd" else 0.1
    return z * (1 - lr * decay) - update, u * (4 * abs(z) + 13 * abs(update))


@laws
@given(seeds, st.floats(0.0, 1.0), st.sampled_from([0.0, 1.0, 2.0, 2.5]))
@pytest.mark.parametrize("lr", [0.05, up_and_down], ids=["constant", "up and down"])
@pytest.mark.parametrize("kind", INSIDE)
@pytest.mark.parametrize("dtype", UNIT)
def test_schedule_free_is_the_papers(dtype, kind, lr, seed, momentum, exponent):
    """From the same state z, x and y are the paper's equations, with weights lr_max^exponent.

    An interpolation of a and b is off by 4 u of |a| + |b| (coefficient, its complement, product, sum), and by what its
    ends are off.
    """
    u, optimizer = 2 * UNIT[dtype], ScheduleFree(INSIDE[kind](lr), momentum=momentum, weight_lr_power=exponent)
    params, grads = draw(seed, dtype, steps=12, decades=1)
    state, largest, total = optimizer.init_state(params), 0.0, 0.0
    for t, grad in enumerate(grads, start=1):
        new, after = optimizer.update(grad, state, params)
        rate = lr if isinstance(lr, float) else float(lr(torch.tensor(t - 1)))
        largest = max(largest, rate)
        weight = largest**exponent
        total += weight
        c = weight / total if total else 0.0
        second = state["optimizer"].get("exp_avg_sq", state["z"])
        for name in params:
            zs, xs, ys = [], [], []
            for old_z, old_x, g, v in rows(state["z"][name], state["x"][name], grad[name], second[name]):
                z, slack_z = inner_step(kind, old_z, g, v, t, rate, u)
                x, slack_x = (1 - c) * old_x + c * z, 4 * u * (abs(old_x) + abs(z)) + slack_z
                y, slack_y = (1 - momentum) * z + momentum * x, 4 * u * (abs(x) + abs(z)) + slack_z + slack_x
                zs.append((z, slack_z))
                xs.append((x, slack_x))
                ys.append((y, slack_y))
            assert within(after["z"][name], zs)
            assert within(after["x"][name], xs)
            assert within(new[name], ys)
        params, state = new, after
        assert all(same_bits(leaf, state["x"][name]) for name, leaf in optimizer.eval_params(state, params).items())


@laws
@given(seeds, st.sampled_from([0.01, 0.5]))
def test_schedule_free_with_momentum_1_is_the_plain_mean(seed, lr):
    """With momentum 1 and a constant rate params are the mean of all z: in float64, to 4 roundings a step."""
    optimizer = ScheduleFree(SGD(lr), momentum=1.0)
    params, grads = draw(seed, torch.float64, steps=50)
    state, zs = optimizer.init_state(params), []
    for grad in grads:
        params, state = optimizer.update(grad, state, params)
        zs.append(state["z"])
    for name, p in params.items():
        every = torch.stack([z[name] for z in zs])
        assert ((p - every.mean(0)).abs() <= 4 * 50 * 2.0**-53 * every.abs().amax(0)).all()


def test_schedule_free_of_rate_0_moves_nothing():
    """While a warm-up has given no rate yet, nothing has weight: z, x and params stay, and no 0/0 arises."""
    params, (grad, *_) = draw(0, steps=1)
    optimizer = ScheduleFree(SGD(up_and_down), momentum=0.9)
    new, state = optimizer.update(grad, optimizer.init_state(params), params)
    for name, p in params.items():
        assert same_bits(state["z"][name], p)
        assert same_bits(state["x"][name], p)
        assert same_bits(new[name], p)


def test_schedule_free_keeps_its_sequences_in_float32():
    """bfloat16 params have z and x in float32, which move where params would stick; params are y, rounded once."""
    params = {"w": torch.ones(3, dtype=torch.bfloat16)}
    optimizer = ScheduleFree(SGD(1e-4), momentum=0.5)
    state = optimizer.init_state(params)
    for _ in range(100):
        params, state = optimizer.update({"w": torch.ones(3, dtype=torch.bfloat16)}, state, params)
    assert state["z"]["w"].dtype == state["x"]["w"].dtype == torch.float32
    assert torch.allclose(state["z"]["w"], torch.full((3,), 0.99), rtol=100 * 2.0**-24)
    assert same_bits(params["w"], torch.lerp(state["z"]["w"], state["x"]["w"], 0.5).bfloat16())


def test_other_formulas_are_noticed(monkeypatch):
    """Negative control: with the ends of interpolations exchanged, neither Lion nor ScheduleFree is the paper's."""
    lion, free = test_lion_is_algorithm_2.hypothesis.inner_test, test_schedule_free_is_the_papers.hypothesis.inner_test
    of_lion = {"dtype": torch.float32, "seed": 0, "b1": 0.9, "b2": 0.99, "lr": 0.1, "decay": 0.1, "maximize": False}
    of_free = {"dtype": torch.float32, "kind": "sgd", "lr": 0.05, "seed": 0, "momentum": 0.9, "exponent": 2.0}
    lion(**of_lion)
    free(**of_free)
    lerp = torch.lerp
    monkeypatch.setattr(torch, "lerp", lambda a, b, weight: lerp(b, a, weight))
    with pytest.raises(AssertionError):
        lion(**of_lion)
    with pytest.raises(AssertionError):
        free(**of_free)
