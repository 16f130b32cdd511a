"""Numbers are checked by value when a record is made, tensors by dtype and ndim, so that a trace can make one."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from fnopt import SGD, Adam, AdamW, ClipNorm, ClipValue, FnoptError, ema, evolve
from fnopt.errors import HyperparameterError


def test_evolve_runs_the_validators():
    """evolve refuses what construction refuses."""
    with pytest.raises(HyperparameterError, match=r"AdamW: lr must be finite and >= 0, got -1\.0"):
        evolve(AdamW(), lr=-1.0)


def test_ints_become_floats():
    """An int given for a number is a float, so that it is a leaf; a bool is refused."""
    assert repr(AdamW(lr=1, betas=(0, 0.5))) == repr(AdamW(lr=1.0, betas=(0.0, 0.5)))
    assert pytree.tree_leaves(SGD(1, weight_decay=2)) == [1.0, 0.0, 0.0, 2.0]


nan, inf = float("nan"), float("inf")
model = torch.nn.Linear(2, 2)
REFUSED = [
    (lambda: AdamW(lr=-0.1), "AdamW: lr must be finite and >= 0, got -0.1"),
    (lambda: AdamW(lr=nan), "AdamW: lr must be finite and >= 0, got nan"),
    (lambda: Adam(eps=inf), "Adam: eps must be finite and >= 0, got inf"),
    (lambda: Adam(weight_decay=-1), "Adam: weight_decay must be finite and >= 0, got -1.0"),
    (lambda: AdamW(betas=(0.9, 1.0)), "AdamW: betas must be in [0, 1), got 1.0"),
    (lambda: AdamW(betas=(-0.1, 0.9)), "AdamW: betas must be in [0, 1), got -0.1"),
    (lambda: AdamW(betas=(0.9,)), "AdamW: betas must be a tuple of 2 numbers, got (0.9,)"),
    (lambda: AdamW(betas=[0.9, 0.99]), "AdamW: betas must be a tuple of 2 numbers, got [0.9, 0.99]"),
    (lambda: AdamW(betas=0.9), "AdamW: betas must be a tuple of 2 numbers, got 0.9"),
    (lambda: AdamW(betas=("0.9", 0.9)), "AdamW: betas must be a float, a tensor or a Schedule, got '0.9'"),
    (lambda: AdamW(lr="fast"), "AdamW: lr must be a float, a tensor or a Schedule, got 'fast'"),
    (lambda: AdamW(lr=None), "AdamW: lr must be a float, a tensor or a Schedule, got None"),
    (lambda: AdamW(lr=True), "AdamW: lr must be a float, a tensor or a Schedule, got True"),
    (lambda: AdamW(lr=1j), "AdamW: lr must be a float, a tensor or a Schedule, got 1j"),
    (
        lambda: AdamW(model.parameters()),
        "AdamW: lr must be a number, got a generator; pure AdamW takes hyperparameters",
    ),
    (lambda: SGD(model), "SGD: lr must be a number, got a Linear; pure SGD takes hyperparameters and no parameters"),
    (lambda: AdamW(model.parameters(), lr=1e-3), "for AdamW(model.parameters(), …) use fnopt.optim.AdamW"),
    (lambda: SGD(list(model.parameters())), "for SGD(model.parameters(), …) use fnopt.optim.SGD"),
    (lambda: SGD(torch.tensor(1)), "SGD: a tensor for lr must be floating point and 0-d (or [K], one value per member"),
    (lambda: SGD(torch.ones(2, 3)), "got torch.float32 of shape [2, 3]"),
    (lambda: SGD(dampening=inf), "SGD: dampening must be finite, got inf"),
    (lambda: SGD(dampening=nan), "SGD: dampening must be finite, got nan"),
    (lambda: SGD(nesterov=True), "SGD: nesterov=True needs momentum > 0 and dampening = 0, got momentum=0.0"),
    (lambda: SGD(momentum=0.9, dampening=0.1, nesterov=True), "got momentum=0.9 and dampening=0.1"),
    (lambda: ClipNorm(0), "ClipNorm: max_norm must be finite and > 0, got 0.0; leave ClipNorm out of chain(…)"),
    (lambda: ClipNorm(inf), "ClipNorm: max_norm must be finite and > 0, got inf; leave ClipNorm out of chain(…)"),
    (lambda: ClipValue(-1.0), "ClipValue: max_value must be finite and > 0, got -1.0; leave ClipValue out of"),
    (lambda: ema(SGD(), 1.5), "Ema: decay must be in [0, 1], got 1.5"),
    (lambda: ema(SGD(), nan), "Ema: decay must be in [0, 1], got nan"),
]


@pytest.mark.parametrize("place", range(len(REFUSED)))
def test_refusals_name_owner_field_rule_and_value(place):
    """A bad number is refused at construction: who, which field, what is expected, what was got, and a fix if any."""
    make, message = REFUSED[place]
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is compared as a whole, below)
        make()
    assert isinstance(caught.value, FnoptError)
    assert message in str(caught.value)


def test_bounds_are_inclusive_where_they_say_so():
    """The ends of each interval that belong to it are accepted."""
    zeros = AdamW(lr=0.0, betas=(0.0, 0.0), eps=0.0, weight_decay=0.0)
    assert pytree.tree_leaves(zeros) == [0.0] * 5
    assert [ema(SGD(), decay).decay for decay in (0, 1)] == [0.0, 1.0]
    assert SGD(momentum=2.0, dampening=-3.0).dampening == -3.0


def test_values_of_tensors_are_not_read():
    """Of tensors only dtype and ndim are checked: -1 passes, as a tensor on a device without data does."""
    for lr in (
        torch.tensor(-1.0),
        torch.empty((), device="meta"),
        torch.ones(4),
        torch.tensor(1.0, dtype=torch.bfloat16),
    ):
        assert AdamW(lr=lr).lr is lr


def one_update(lr, p, g):
    optimizer = evolve(AdamW(lr=lr), weight_decay=lr)
    return optimizer.update({"w": g}, optimizer.init_state({"w": p}), {"w": p})[0]["w"]


def test_construction_works_under_vmap_grad_and_make_fx():
    """A record can be built from what functorch and a trace put in the place of a tensor, with the same result."""
    p, g, lrs = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]), torch.tensor([0.1, 0.2, 0.3])
    each = torch.stack([one_update(lr, p, g) for lr in lrs])
    assert torch.equal(torch.vmap(one_update, (0, None, None))(lrs, p, g), each)
    slope = torch.func.grad(lambda lr: one_update(lr, p, g).sum())(lrs[0])
    # d/dlr of p (1 - lr²) - lr sign(g), summed
    assert torch.allclose(slope, (-2 * lrs[0] * p - g.sign()).sum(), rtol=1e-4)
    traced = make_fx(one_update, tracing_mode="fake")(lrs[0], p, g)
    assert torch.equal(traced(lrs[2], p, g), each[2])
