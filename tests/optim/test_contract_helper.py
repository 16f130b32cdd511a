"""The comparison that all these tests rest on finds every kind of difference (its negative control)."""

from collections import OrderedDict

import pytest
import torch
from contract_cases import ALL_FLAGS, SEVEN, Raised, attempt, differs, draw, fill, look, parameters, start, train
from torch import nn

ONES = torch.ones(2, 3)
PAIRS = {
    "a bit": (ONES, ONES.nextafter(2 * ONES)),
    "the sign of zero": (torch.zeros(2), -torch.zeros(2)),
    "a nan": (ONES, ONES * torch.nan),
    "dtype": (ONES, ONES.double()),
    "shape": (ONES, torch.ones(6)),
    "memory format": (ONES, torch.ones(3, 2).T),
    "layout": (ONES, ONES.to_sparse()),
    "requires_grad": (ONES, torch.ones(2, 3, requires_grad=True)),
    "Parameter or Tensor": (ONES, nn.Parameter(ONES)),
    "the imaginary part": (torch.complex(ONES, ONES), torch.complex(ONES, 2 * ONES)),
    "number or tensor": (1.0, torch.tensor(1.0)),
    "int or float": (1, 1.0),
    "a key": ({"a": 1}, {"b": 1}),
    "order of keys": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "type of the dict": ({"a": 1}, OrderedDict(a=1)),
    "a number of items": ([1, 2], [1]),
    "deep inside": ({"a": [{"b": (1, ONES)}]}, {"a": [{"b": (1, 2 * ONES)}]}),
    "type of the error": (Raised(ValueError, "x"), Raised(TypeError, "x")),
    "text of the error": (Raised(ValueError, "x"), Raised(ValueError, "y")),
    "an error or none": (1, Raised(ValueError, "y")),
    "none or an error": (Raised(ValueError, "y"), 1),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_a_difference_is_found(kind):
    """Two outcomes that are not the same to the bit are told apart, whichever of them is torch's."""
    one, other = PAIRS[kind]
    assert differs({"x": one}, {"x": other}) is not None
    assert differs({"x": other}, {"x": one}) is not None
    assert differs({"x": one}, {"x": one}) is None


def test_what_counts_as_the_same():
    """Two nans are the same, an error may be a child of torch's, and an address in its text does not count."""
    assert differs([float("nan"), ONES * torch.nan], [float("nan"), ONES * torch.nan]) is None
    assert differs(Raised(KeyError, "x"), Raised(LookupError, "x")) is None
    assert differs(Raised(LookupError, "x"), Raised(KeyError, "x")) is not None

    def fail():
        raise ValueError(f"at {object()!r}")

    assert differs(attempt(fail), attempt(fail)) is None


@pytest.mark.parametrize("name", SEVEN)
def test_a_gradient_that_is_slightly_off_is_found(name):
    """One entry of a gradient, 2e-5 off in the first of three steps, shows in what a client can see at the end."""
    outcomes = []
    for factor in (1.0, 1 + 2e-5):
        opt, params = start(torch.optim, name, {"lr": 0.1})
        fill(params, 0)
        params[0].grad[1, 1] *= factor
        opt.step()
        train(opt, params, (1, 2))
        outcomes.append(look(opt, params))
    assert differs(*outcomes) is not None


@pytest.mark.parametrize(("name", "flags"), ALL_FLAGS)
def test_every_set_of_flags_says_something(name, flags):
    """No set of flags in the table gives the same weights as another of its class: none of them is idle."""
    weights = [_weights(name, other) for other_name, other in ALL_FLAGS if other_name == name]
    assert sum(differs(_weights(name, flags), other) is None for other in weights) == 1


def _weights(name, flags):
    opt, params = start(torch.optim, name, flags)
    train(opt, params, range(3))
    return [param.detach().clone() for param in params]


def test_the_gradients_are_not_trivial():
    """The drawn gradients differ between parameters and times, and none of their entries is zero."""
    params = parameters("AdamW")
    fill(params, 0)
    first = [param.grad for param in params]
    fill(params, 1)
    assert all(
        (grad != 0).all() and not torch.equal(grad, param.grad) for grad, param in zip(first, params, strict=True)
    )
    assert not torch.equal(draw((3,), 2, 0, 0), draw((3,), 2, 1, 0))
