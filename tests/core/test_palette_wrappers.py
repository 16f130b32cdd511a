"""lookahead is the paper's loop; what is evaluated is found wherever ScheduleFree and lookahead stand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_peer import draw, same_bits

from fnopt import (
    SGD,
    AdamW,
    ClipNorm,
    RMSprop,
    ScheduleFree,
    chain,
    ema,
    freeze,
    lookahead,
    make_step,
    partition,
    value_and_grad,
)
from fnopt.errors import HyperparameterError

laws = settings(max_examples=20)
seeds = st.integers(0, 2**32)
INSIDE = [SGD(0.1, momentum=0.9), AdamW(0.1), RMSprop(0.1)]
UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def equal(a, b):
    """The same names and bits."""
    return a.keys() == b.keys() and all(same_bits(a[name], b[name]) for name in a)


def run(optimizer, params, grads):
    """Params and state after these gradients."""
    state = optimizer.init_state(params)
    for grad in grads:
        params, state = optimizer.update(grad, state, params)
    return params, state


@laws
@given(seeds, st.integers(1, 6), st.floats(0.0, 1.0))
@pytest.mark.parametrize("inside", INSIDE, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("dtype", UNIT)
def test_lookahead_is_algorithm_1(dtype, inside, seed, k, alpha):
    """k steps of the optimizer, then slow + alpha (fast - slow) for both, to 4 u of both; the optimizer goes on.

    Between, params are the optimizer's to the bit, and slow weights stay.
    """
    optimizer, (params, grads) = lookahead(inside, k, alpha), draw(seed, dtype, steps=13)
    state, inner, slow = optimizer.init_state(params), inside.init_state(params), params
    for t, grad in enumerate(grads, start=1):
        fast, inner = inside.update(grad, inner, params)
        params, state = optimizer.update(grad, state, params)
        assert all(equal(state["optimizer"][what], inner[what]) for what in inner if what != "step")
        if t % k:
            assert equal(params, fast)
            assert equal(state["slow"], slow)
            continue
        assert equal(params, state["slow"])
        for name, p in params.items():
            expected = slow[name].double() + alpha * (fast[name].double() - slow[name].double())
            size = slow[name].double().abs() + fast[name].double().abs()
            assert ((p.double() - expected).abs() <= 4 * 2 * UNIT[dtype] * size).all()
        slow = state["slow"]


@laws
@given(seeds, st.integers(1, 6))
@pytest.mark.parametrize("inside", INSIDE, ids=lambda rule: type(rule).__name__)
def test_lookahead_of_alpha_1_is_the_optimizer_alone(inside, seed, k):
    """With alpha = 1 params are the optimizer's own to the bit; with alpha = 0 they return to where they began."""
    params, grads = draw(seed, steps=2 * k)
    alone, _ = run(inside, params, grads)
    assert equal(run(lookahead(inside, k, 1.0), params, grads)[0], alone)
    assert equal(run(lookahead(inside, k, 0.0), params, grads)[0], params)
    assert not equal(run(lookahead(inside, k, 0.5), params, grads)[0], alone)


def test_lookahead_keeps_slow_weights_in_float32():
    """bfloat16 params have slow weights in float32, that move by less than params can show."""
    params = {"w": torch.ones(3, dtype=torch.bfloat16)}
    grads = [{"w": torch.ones(3, dtype=torch.bfloat16)}] * 2
    _, state = run(lookahead(SGD(2.0**-7), 2, 2.0**-4), params, grads)
    assert torch.equal(state["slow"]["w"], torch.full((3,), 1 - 2.0**-10))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lookahead(SGD(0.1), 0), "k must be an int >= 1, got 0"),
        (lambda: lookahead(SGD(0.1), 2.0), "k must be an int >= 1, got 2.0"),
        (lambda: lookahead(SGD(0.1), 5, 1.5), r"alpha must be in \[0, 1\], got 1.5"),
        (lambda: ScheduleFree(SGD(0.1), momentum=1.5), r"momentum must be in \[0, 1\], got 1.5"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    """What is no fraction or no count is refused at construction."""
    with pytest.raises(HyperparameterError, match=message):
        make()


FREE, SLOW = ScheduleFree(SGD(0.1), momentum=0.5), lookahead(SGD(0.1), 3)
AVERAGES = {"schedule-free": (FREE, lambda state: state["x"]), "lookahead": (SLOW, lambda state: state["slow"])}


@laws
@given(seeds)
@pytest.mark.parametrize("kind", AVERAGES)
def test_eval_params_are_found_through_wrappers(kind, seed):
    """chain, partition and freeze evaluate what the optimizer inside would; ema around it, its own average."""
    inside, average = AVERAGES[kind]
    params, grads = draw(seed, steps=4)

    alone = chain(ClipNorm(1.0), inside)
    new, state = run(alone, params, grads)
    assert equal(alone.eval_params(state, new), average(state[type(inside).__name__]))
    assert not equal(alone.eval_params(state, new), new)

    labels = {name: "a" if name in ("matrix", "scalar") else "b" for name in params}
    split = partition({"a": inside, "b": SGD(0.1)}, labels)
    new, state = run(split, params, grads)
    own = run(inside, {name: p for name, p in params.items() if labels[name] == "a"}, grads_of(grads, labels, "a"))
    found = split.eval_params(state, new)
    assert equal({name: found[name] for name in own[0]}, average(own[1]))
    assert all(same_bits(found[name], new[name]) for name, label in labels.items() if label == "b")

    part = freeze(inside, "cube")
    new, state = run(part, params, grads)
    found = part.eval_params(state, new)
    assert same_bits(found["cube"], params["cube"])
    assert equal({name: p for name, p in found.items() if name != "cube"}, average(state))

    around = ema(inside, 0.9)
    new, state = run(around, params, grads)
    assert equal(around.eval_params(state, new), state["ema"])
    assert not equal(state["ema"], average(state["optimizer"]))


def grads_of(grads, labels, label):
    """The gradients of the parameters with this label."""
    return [{name: g for name, g in grad.items() if labels[name] == label} for grad in grads]


@pytest.mark.parametrize("kind", AVERAGES)
def test_a_step_evaluates_the_average(kind):
    """A step's eval_params are the average, through a chain, and they are better than nothing: they fit the data."""
    inside, average = AVERAGES[kind]
    x = torch.linspace(-1, 1, 20)
    step = make_step(
        value_and_grad(lambda params, batch: ((params["w"] * batch - 3 * batch).square().sum(), len(batch))),
        chain(ClipNorm(10.0), inside),
    )
    state = step.init_state({"w": torch.zeros(())})
    for _ in range(200):
        state, metrics = step.step(state, x)
    assert equal(step.eval_params(state), average(state.opt_state[type(inside).__name__]))
    assert abs(step.eval_params(state)["w"] - 3) < 0.3
    assert metrics["lr"] == torch.tensor(0.1)


@pytest.mark.parametrize("kind", AVERAGES)
def test_eval_params_have_the_dtype_of_params(kind):
    """The averages, which are float32, come in the dtypes of params: a model runs on them."""
    inside, _ = AVERAGES[kind]
    params, grads = draw(0, torch.bfloat16, steps=3)
    new, state = run(inside, params, grads)
    assert {leaf.dtype for leaf in inside.eval_params(state, new).values()} == {torch.bfloat16}


class Still:
    """An optimizer that has no lr."""

    def init_state(self, params):
        return {}

    def update(self, grads, state, params):
        return {name: p - grads[name] for name, p in params.items()}, state


def test_without_an_lr_every_step_weighs_one():
    """Schedule-Free around an optimizer that has no lr: as if it were 1, so the average is the plain one."""
    params, grads = {"w": torch.tensor([1.0])}, {"w": torch.tensor([1.0])}
    optimizer = ScheduleFree(Still(), momentum=0.0)
    state = optimizer.init_state(params)
    for _ in range(3):
        params, state = optimizer.update(grads, state, params)
    assert (state["largest_lr"].item(), state["weight_sum"].item()) == (1.0, 3.0)
    assert optimizer.eval_params(state, params)["w"].item() == pytest.approx((0 - 1 - 2) / 3)
