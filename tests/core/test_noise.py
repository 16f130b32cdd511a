"""AddNoise: standard normal draws that know no other, as a pure function of (seed, step, name, entry)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx
from torch_peer import draw, same_bits

import fnopt.transforms.noise as noise
from fnopt import SGD, AddNoise, chain, make_step, value_and_grad
from fnopt.errors import HyperparameterError

pytestmark = pytest.mark.usefixtures("one_thread")
seeds = st.integers(0, 2**64)
N = 2**17
SIGMAS = 5.5  # a statistic that is off by so many of its standard deviations: 4e-8 of the time by chance


def draws(seed=0, step=0, name="w", n=N):
    """The noise itself, in float64: what is added to a gradient of zeros under std 1."""
    transform, params = AddNoise(1.0, seed), {name: torch.zeros(n)}
    state = {**transform.init_state(params), "step": torch.tensor(step)}
    return transform.transform(params, state, params)[0][name].double()


def moments(x):
    """How far mean, variance, skewness and kurtosis are from a standard normal's, in standard deviations of each."""
    n = len(x)
    return torch.stack(
        [
            x.mean() * math.sqrt(n),
            (x.square().mean() - 1) * math.sqrt(n / 2),
            x.pow(3).mean() * math.sqrt(n / 15),
            (x.pow(4).mean() - 3) * math.sqrt(n / 96),
        ]
    )


def distance(x):
    """Kolmogorov's: the largest difference of the empirical distribution from the normal one, times sqrt(n)."""
    normal = torch.special.ndtr(x.sort().values)
    ranks = torch.arange(len(x) + 1, dtype=torch.float64) / len(x)
    return torch.maximum(normal - ranks[:-1], ranks[1:] - normal).max() * math.sqrt(len(x))


def correlations(x, y):
    """Of two streams, of their squares and of each with the other's square, in standard deviations of chance."""
    a, b = (x.square() - 1) / math.sqrt(2), (y.square() - 1) / math.sqrt(2)
    return torch.stack([x @ y, a @ b, x @ b, a @ y]) / math.sqrt(len(x))


@settings(max_examples=5)
@given(seeds, st.integers(0, 2**40))
def test_draws_are_standard_normal(seed, step):
    """Mean, variance, skewness, kurtosis and the whole distribution of 2^17 draws are the normal's, for any seed.

    Domain: 24 bits of a uniform number, so nothing beyond sqrt(50 ln 2) = 5.89, once in 2.6e8 draws.
    """
    x = draws(seed, step)
    assert moments(x).abs().max() < SIGMAS
    assert distance(x) < 3.0  # 2 exp(-2 * 9) = 3e-8 of the time
    assert len(x.unique()) > 0.9 * N
    assert x.abs().max() < 5.9


def test_a_million_draws_are_standard_normal():
    """The same of 2^20 draws at once, whose tails hold as many beyond 4 as they should."""
    x = draws(seed=3, n=2**20)
    assert moments(x).abs().max() < SIGMAS
    expected = 2**20 * math.erfc(4 / math.sqrt(2))
    assert abs((x.abs() > 4).sum() - expected) < SIGMAS * math.sqrt(expected)


@settings(max_examples=4)
@given(seeds, st.integers(0, 2**40), st.integers(1, 64))
def test_streams_do_not_know_each_other(seed, step, apart):
    """Steps, seeds, names and entries that lie any number apart are uncorrelated, and so are their squares."""
    x = draws(seed, step)
    others = {
        "step": draws(seed, step + apart),
        "seed": draws(seed + apart, step),
        "seed for step": draws(seed + 1, step + apart),
        "name": draws(seed, step, "v"),
        "similar name": draws(seed, step, "w" * (apart + 1)),
        "neighbours": x.roll(apart),
        "backwards": x.flip(0)[: N // 2],
    }
    for what, other in others.items():
        assert correlations(x[: len(other)], other).abs().max() < SIGMAS, what


def test_consecutive_steps_and_seeds_do_not_know_each_other():
    """Among the first 40 steps and the first 40 seeds, all 780 pairs of streams are uncorrelated each."""
    for many in ([draws(step=t, n=2**14) for t in range(40)], [draws(seed=s, n=2**14) for s in range(40)]):
        rows = torch.stack(many)
        between = (rows @ rows.T / math.sqrt(2**14)).fill_diagonal_(0.0)
        assert between.abs().max() < SIGMAS
        assert abs(between.square().sum() / (40 * 39) - 1) < SIGMAS * math.sqrt(2 / 780)  # and their spread is chance's


def weak(word):
    """A generator of bits that is too simple: one multiplication."""
    return word * noise._signed(0x9E3779B97F4A7C15)


@pytest.mark.parametrize("check", ["moments", "streams"])
def test_a_weak_generator_is_noticed(monkeypatch, check):
    """Negative control: with bits that are mixed too little, the tests above fail."""
    monkeypatch.setattr(noise, "scramble", weak)
    of_moments, of_streams = test_draws_are_standard_normal, test_streams_do_not_know_each_other
    with pytest.raises(AssertionError):
        of_moments.hypothesis.inner_test(1, 5) if check == "moments" else of_streams.hypothesis.inner_test(1, 5, 1)


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.complex64]


def once(std, params, grads, seed=1, step=0):
    transform = AddNoise(std, seed)
    return transform.transform(grads, {**transform.init_state(params), "step": torch.tensor(step)}, params)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.floats(0.0, 10.0))
@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_is_a_pure_function(dtype, seed, std):
    """The same call gives the same bits, and leaves torch's generator as it was; std = 0 changes nothing."""
    params, (grads, *_) = draw(seed, dtype, steps=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        one, state = once(std, params, grads, seed)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(seed + 1)
        other, _ = once(std, params, grads, seed)
    assert all(same_bits(one[name], other[name]) for name in grads)
    assert int(state["step"]) == 1
    assert all(same_bits(leaf, grads[name]) for name, leaf in once(0.0, params, grads, seed)[0].items())
    # a parameter's noise does not depend on the others, nor on their order
    alone, _ = once(std, {"cube": params["cube"]}, {"cube": grads["cube"]}, seed)
    assert same_bits(alone["cube"], one["cube"])


def test_noise_of_a_generator_is_noticed(monkeypatch):
    """Negative control: draws from torch's generator are no pure function."""
    monkeypatch.setattr(noise, "normal", lambda key, like: torch.randn_like(like))
    with pytest.raises(AssertionError):
        test_noise_is_a_pure_function.hypothesis.inner_test(torch.float32, 0, 1.0)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.floats(1e-3, 10.0))
@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_is_added_with_one_rounding(dtype, seed, std):
    """g + std n in float32 or wider, rounded once; complex gradients get independent noise on both parts."""
    params, (grads, *_) = draw(seed, dtype, steps=1, decades=1)
    wide, single = (torch.complex128, torch.complex64) if dtype.is_complex else (torch.float64, torch.float32)
    zeros = {name: torch.zeros(p.shape, dtype=single) for name, p in params.items()}
    pure, _ = once(1.0, zeros, zeros, seed)
    noisy, _ = once(std, params, grads, seed)
    u = {torch.bfloat16: 2.0**-8, torch.float64: 2.0**-52}.get(dtype, 2.0**-23)
    for name, g in grads.items():
        assert (noisy[name].dtype, noisy[name].shape) == (g.dtype, g.shape)
        expected = g.to(wide) + std * pure[name].to(wide)
        size = g.to(wide).abs() + std * pure[name].to(wide).abs()
        assert ((noisy[name].to(wide) - expected).abs() <= 2 * u * size).all()


def test_parts_of_complex_noise_are_independent():
    """Real and imaginary parts are standard normal each and uncorrelated."""
    params = {"w": torch.zeros(N, dtype=torch.complex64)}
    drawn = once(1.0, params, params)[0]["w"].to(torch.complex128)
    assert moments(drawn.real).abs().max() < SIGMAS
    assert moments(drawn.imag).abs().max() < SIGMAS
    assert correlations(drawn.real, drawn.imag).abs().max() < SIGMAS


def test_vmap_over_keys_is_the_loop():
    """Members with keys of their own have noise of their own: that of the loop, to a rounding of log and cos."""
    params, (grads, *_) = draw(0, steps=1)
    transform = AddNoise(0.5)
    states = [AddNoise(0.5, seed).init_state(params) for seed in range(4)]
    stacked = {what: torch.stack([state[what] for state in states]) for what in states[0]}
    every, after = torch.vmap(lambda state: transform.transform(grads, state, params))(stacked)
    assert after["step"].tolist() == [1] * 4
    for place, state in enumerate(states):
        alone, _ = transform.transform(grads, state, params)
        for name, leaf in alone.items():
            assert ((every[name][place] - leaf).abs() <= 4 * 2.0**-23 * (grads[name].abs() + 6 * 0.5)).all()
            assert place == 0 or not leaf.numel() or not torch.equal(every[name][place], every[name][0])


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_a_trace_is_the_function(mode):
    """make_fx records what eager does, to the bit, and the graph follows the step and the key it is given."""
    params, (grads, *_) = draw(0, steps=1)
    transform = AddNoise(0.5, seed=3)
    state = transform.init_state(params)
    graph = make_fx(lambda g, s: transform.transform(g, s, g), tracing_mode=mode)(grads, state)
    for later in ({"step": torch.tensor(7), "key": state["key"]}, {"step": state["step"], "key": torch.tensor(-5)}):
        eager, after = transform.transform(grads, later, params)
        traced, followed = graph(grads, later)
        assert all(same_bits(traced[name], leaf) for name, leaf in eager.items())
        assert int(followed["step"]) == int(after["step"])


def test_noise_follows_a_schedule_and_the_step():
    """std may be a Schedule of the noise's own clock: the variance falls with it, and each step draws anew."""
    transform, params = AddNoise(lambda step: 1.0 / (1 + step.double())), {"w": torch.zeros(N)}
    state, seen = transform.init_state(params), []
    for t in range(3):
        noisy, state = transform.transform(params, state, params)
        seen.append(noisy["w"].double() * (1 + t))
    assert all(moments(x).abs().max() < SIGMAS for x in seen)
    assert correlations(seen[0], seen[1]).abs().max() < SIGMAS


def test_a_step_with_noise_is_the_same_twice():
    """In a step, where seeds are drawn from (seed, position), the noise depends on the optimizer's state alone."""
    step = make_step(value_and_grad(lambda p, x: ((p["w"] * x).sum(), 1)), chain(AddNoise(0.1), SGD(1.0)))
    state = step.init_state({"w": torch.zeros(3)}, seed=1)
    again = step.init_state({"w": torch.zeros(3)}, seed=2)
    assert same_bits(step.step(state, torch.zeros(3))[0].params["w"], step.step(again, torch.zeros(3))[0].params["w"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AddNoise(-1.0), "std must be finite and >= 0, got -1.0"),
        (lambda: AddNoise(1.0, -1), "seed must be an int >= 0, got -1"),
        (lambda: AddNoise(1.0, True), "seed must be an int >= 0, got True"),
        (lambda: AddNoise(1.0, 1.0), "seed must be an int >= 0, got 1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    """A negative deviation, and what is no seed, are refused at construction."""
    with pytest.raises(HyperparameterError, match=message):
        make()
