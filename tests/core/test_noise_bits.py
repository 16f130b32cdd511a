"""The noise of AddNoise is a published generator: each bit, computed here a second time with plain integers."""

import hashlib
import math

import pytest
import torch

from fnopt import AddNoise
from fnopt.randomness import mix
from fnopt.transforms.noise import _uniform, normal, scramble

WORD = 2**64 - 1


def splitmix(word):
    """SplitMix64 (Steele, Lea & Flood 2014), on unsigned integers."""
    word = (word + 0x9E3779B97F4A7C15) & WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    return word ^ (word >> 31)


def signed(word):
    return word - 2**64 if word >= 2**63 else word


def test_scramble_is_splitmix():
    """The outputs for seed 1234567 are those that are published for SplitMix64; others are those of plain integers."""
    gamma = 0x9E3779B97F4A7C15
    states = torch.tensor([signed((1234567 + place * gamma) & WORD) for place in range(5)])
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    published += [16408922859458223821]
    assert [word & WORD for word in scramble(states).tolist()] == published
    words = [0, 1, -1, 2**63 - 1, -(2**63), 2**40, -(2**40)]
    assert [word & WORD for word in scramble(torch.tensor(words)).tolist()] == [splitmix(word & WORD) for word in words]


@pytest.mark.parametrize(("seed", "step", "name"), [(0, 0, "w"), (1, 0, "w"), (0, 7, "w"), (3, 2, "layers.0.bias")])
def test_noise_is_that_of_plain_integers(seed, step, name):
    """Entry i of a parameter, by its name, is the Box-Muller draw of words 2 i and 2 i + 1 of its own stream."""
    params = {"other": torch.zeros(2), name: torch.zeros(2, 3)}
    transform = AddNoise(2.0, seed)
    state = {**transform.init_state(params), "step": torch.tensor(step)}
    found = transform.transform(params, state, params)[0][name].flatten()
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    key = splitmix(splitmix(mix(seed) + splitmix(step)) + number)
    for place, value in enumerate(found.tolist()):
        first, second = ((splitmix(key + 2 * place + part) >> 40) + 0.5 for part in range(2))
        expected = math.sqrt(-2 * math.log(first / 2**24)) * math.cos(2 * math.pi * second / 2**24)
        assert value == pytest.approx(2.0 * expected, rel=1e-4, abs=1e-5)


def test_uniform_draws_are_inside_the_unit_interval():
    """The smallest draw is 2^-25, the largest 1 (to rounding): a logarithm is finite, and none is above 0."""
    least, most = _uniform(torch.tensor([0, -1])).tolist()
    assert least == 2.0**-25
    assert most == 1.0
    assert _uniform(torch.tensor([1 << 40])).item() == 1.5 * 2.0**-24


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_draws_are_shaped_as_what_they_are_for(shape, dtype):
    """Draws for a real leaf are float32, for a complex one complex64, of its shape."""
    draws = normal(torch.tensor(5), torch.zeros(shape, dtype=dtype))
    assert draws.shape == shape
    assert draws.dtype == (torch.complex64 if dtype.is_complex else torch.float32)
