"""fnopt.randomness: seeds are a pure function of integers, and borrowed generators come back as they were."""

import itertools
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from fnopt.randomness import borrowed_generators, mix, seeded

laws = settings(deadline=None, max_examples=60)
CPU = torch.device("cpu")
words = st.integers(-(2**63), 2**64 - 1)
seeds = st.integers(0, 2**63 - 1)


def test_mix_is_injective_on_a_grid():
    """Small integers, in any order and number, give seeds that are all different."""
    grids = [itertools.product(range(-2, size), repeat=n) for n, size in ((1, 5000), (2, 120), (3, 24), (4, 8))]
    keys = [key for grid in grids for key in grid]
    assert len({mix(*key) for key in keys}) == len(keys) > 40_000


@laws
@given(st.lists(words, max_size=4))
def test_mix_is_a_seed(integers):
    """Every result is an int that torch, numpy's SeedSequence and int64 all take."""
    assert 0 <= mix(*integers) < 2**63


@laws
@given(st.lists(words, min_size=1, max_size=4), st.integers(0, 63), st.data())
def test_mix_avalanches(integers, bit, data):
    """Flipping any bit of any integer changes a good part of the result's bits."""
    place = data.draw(st.integers(0, len(integers) - 1))
    flipped = [x ^ (1 << bit) if i == place else x for i, x in enumerate(integers)]
    assert 8 <= (mix(*integers) ^ mix(*flipped)).bit_count() <= 55


FROZEN = {
    (): 0,
    (0,): 0xE220A8397B1DCDAF >> 1,  # the first output of the published SplitMix64 from state 0
    (0, 1): 1534736266818221247,
    (1, 0): 3395948882924712079,
    (-1, 2**63, 7): 5103892039387105642,
}


def test_mix_is_frozen():
    """The values are those of the first release, here and in a fresh process: data order survives an upgrade."""
    assert {key: mix(*key) for key in FROZEN} == FROZEN
    code = f"from fnopt.randomness import mix; print([mix(*key) for key in {list(FROZEN)}])"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == str(list(FROZEN.values()))


@laws
@given(seeds, st.integers(0, 5))
def test_seeded_restores_the_callers_generator(seed, draws):
    """A block that draws any amount changes no number drawn after it."""
    torch.default_generator.manual_seed(1)
    expected = torch.rand(4)
    torch.default_generator.manual_seed(1)
    with seeded(seed, CPU):
        torch.randn(draws)
    assert torch.equal(torch.rand(4), expected)


def test_seeded_restores_after_an_exception():
    """The generator comes back when the block raises, and the exception goes on."""
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="must match"), seeded(3, CPU):
        torch.add(torch.rand(3), torch.rand(2))
    assert torch.equal(torch.get_rng_state(), before)


@laws
@given(seeds, seeds)
def test_seeded_blocks_agree_if_their_seeds_do(a, b):
    """The same seed draws the same numbers; another one draws others."""
    drawn = []
    for seed in (a, a, b):
        with seeded(seed, CPU):
            drawn.append(torch.rand(8, dtype=torch.float64))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2]) == (a == b)


def test_seeded_blocks_nest():
    """An inner block leaves the outer block's numbers as they are."""
    with seeded(1, CPU):
        expected = torch.rand(6)
    with seeded(1, CPU):
        first = torch.rand(3)
        with seeded(2, CPU):
            torch.rand(5)
        assert torch.equal(torch.cat([first, torch.rand(3)]), expected)


def noisy(x):
    with seeded(5, CPU):
        return x * torch.rand(3)


TRANSFORMED = {
    "grad": lambda: torch.func.grad(lambda x: noisy(x).sum())(torch.ones(3)),
    "vmap": lambda: torch.vmap(noisy, randomness="same")(torch.ones(2, 3))[1],
    "jvp": lambda: torch.func.jvp(noisy, (torch.ones(3),), (torch.ones(3),))[1],
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, of its first jvp
@pytest.mark.parametrize("transform", TRANSFORMED)
def test_seeded_holds_inside_functorch(transform):
    """Under grad, vmap and jvp a block draws what it draws outside, and gives the generator back."""
    before = torch.get_rng_state()
    assert torch.equal(TRANSFORMED[transform](), noisy(torch.ones(3)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_seeded_leaves_no_trace(mode):
    """A trace holds the draw and nothing of the seeding, and the caller's generator is as it was."""
    before = torch.get_rng_state()
    graph = make_fx(noisy, tracing_mode=mode)(torch.ones(3))
    calls = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert calls == [torch.ops.aten.rand.default, torch.ops.aten.mul.Tensor]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("device", "seen"), [("cuda", 1), ("cuda:0", 0), ("cuda:1", 1)])
def test_seeded_takes_the_generator_of_an_accelerator_too(monkeypatch, device, seen):
    """The generator of that device (without an index, the current one) is seeded and restored, no other."""
    generators = tuple(torch.Generator().manual_seed(i) for i in range(2))
    module = SimpleNamespace(default_generators=generators, current_device=lambda: 1)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    before = [generator.get_state() for generator in generators]
    with seeded(7, torch.device(device)):
        assert torch.initial_seed() == 7
        assert [generator.initial_seed() == 7 for generator in generators] == [i == seen for i in range(2)]
        torch.rand(2, generator=generators[seen])
    assert all(torch.equal(generator.get_state(), old) for generator, old in zip(generators, before, strict=True))


def test_seeded_on_the_cpu_wakes_no_accelerator(monkeypatch):
    """For a CPU device no module of an accelerator is even looked up."""
    monkeypatch.setattr(torch, "get_device_module", lambda device: pytest.fail("asked for an accelerator"))
    with seeded(0, CPU), seeded(0, torch.device("meta")):
        assert torch.initial_seed() == 0


def draw_from_all():
    return torch.rand(2).tolist(), random.random(), numpy.random.rand(2).tolist(), random.gauss(), numpy.random.randn()


@laws
@given(seeds, st.integers(0, 3))
def test_borrowed_generators_come_back(seed, draws):
    """Torch's, Python's and numpy's generators draw, after a block, what they would have drawn without it."""
    torch.default_generator.manual_seed(1), random.seed(1), numpy.random.seed(1)
    draw_from_all()  # leaves half a pair of normal deviates behind, which is state too
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()
    expected = draw_from_all()
    torch.set_rng_state(states[0]), random.setstate(states[1]), numpy.random.set_state(states[2])
    with borrowed_generators() as seed_all:
        seed_all(seed)
        for _ in range(draws):
            draw_from_all()
    assert draw_from_all() == expected


def test_borrowed_generators_come_back_after_an_exception():
    """They come back when the block raises, too."""
    random.seed(1)
    expected = random.getstate()
    with pytest.raises(ValueError, match="low"), borrowed_generators() as seed_all:
        numpy.random.randint(seed_all(2) or 5, 1)  # seeds all, then raises
    assert random.getstate() == expected


@laws
@given(seeds, seeds)
def test_borrowed_generators_draw_what_the_seed_says(a, b):
    """All three generators repeat for the same seed, and none does for another."""
    with borrowed_generators() as seed_all:
        one, again, other = [(seed_all(seed), draw_from_all())[1] for seed in (a, a, b)]
    assert one == again
    assert [x == y for x, y in zip(one, other, strict=True)] == [a == b] * 5


def test_borrowed_generators_do_without_numpy(monkeypatch):
    """Where numpy is not imported, nothing imports it, and the other two are seeded."""
    monkeypatch.delitem(sys.modules, "numpy")
    with borrowed_generators() as seed_all:
        seed_all(4)
        assert torch.initial_seed() == 4
        assert random.random() == random.Random(4).random()
    assert "numpy" not in sys.modules
