"""Optimizers that people have: torch's, with what they remember, and fnopt.optim's."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from trainer_cases import dataset, loss, trained, trainer

import fnopt
from fnopt import optim
from fnopt.record import same

KINDS = {
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.01),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.01, weight_decay=0.1),
    "SGD": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
    "optim.AdamW": lambda params: optim.AdamW(params, lr=0.01),
}


def plain(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def torch_loop(model, optimizer, data, steps, max_norm=None, scheduler=None):
    """What everybody writes, over the same batches."""
    for _, batch in zip(range(steps), data, strict=False):
        total, weight, _ = loss(model, batch)
        optimizer.zero_grad()
        (total / weight).backward()
        if max_norm:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def near(model, other):
    """Equal to rounding: the mean's gradient is taken of the sum here."""
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_torch_optimizer_goes_on_with_its_state(kind):
    """Five steps in a plain loop and six in a Trainer end where eleven in the plain loop do."""
    whole, split = plain(), plain()
    data = fnopt.Batches(dataset(), 4, seed=0)
    first = [data.at(place) for place in range(11)]
    torch_loop(whole, KINDS[kind](whole.parameters()), first, 11)
    optimizer = KINDS[kind](split.parameters())
    torch_loop(split, optimizer, first, 5)
    made = trainer(model=split, optimizer=optimizer, train_loader=_After(first[5:]), max_epochs=None, max_steps=6)
    made.train()
    assert near(whole, split)
    assert not near(plain(), split)


class _After:
    """Fixed batches from a position on."""

    def __init__(self, items):
        self.items = items

    def iter_from(self, position):
        return iter(self.items[position:])


def test_a_fresh_state_is_another_run():
    """Negative control: what the optimizer remembers matters."""
    states = []
    for warm in (False, True):
        own = plain()
        optimizer = torch.optim.SGD(own.parameters(), lr=0.01, momentum=0.9)
        weights = {name: value.clone() for name, value in own.state_dict().items()}
        if warm:
            torch_loop(own, optimizer, DataLoader(dataset(), 4), 3)
            own.load_state_dict(weights)
        states.append(trained(model=own, optimizer=optimizer))
    assert not same(states[0].params, states[1].params)


def test_groups_become_rules():
    """Two groups have their own numbers, and the metrics name both rates."""
    own = plain()
    groups = [{"params": own[0].parameters(), "lr": 0.0}, {"params": own[2].parameters(), "lr": 0.1}]
    before = own[0].weight.clone()
    made = trainer(model=own, optimizer=torch.optim.SGD(groups))
    made.train()
    assert torch.equal(own[0].weight, before)
    assert "lr/group 1: 0.1 first" in str(made.plan())


def test_parameters_that_the_optimizer_lacks_are_frozen():
    """As with torch: the head alone is trained; the body, which requires grad, stays."""
    own = plain()
    body, head = own[0].weight.clone(), own[2].weight.clone()
    trained(model=own, optimizer=torch.optim.AdamW(own[2].parameters(), lr=0.1))
    assert torch.equal(own[0].weight, body)
    assert not torch.equal(own[2].weight, head)


def test_parameters_that_do_not_require_grad_may_be_in_it():
    """An optimizer over model.parameters() of a partly frozen model is fine, as in torch."""
    own = plain()
    own[0].weight.requires_grad_(False)
    before = own[0].weight.clone()
    trained(model=own, optimizer=torch.optim.AdamW(own.parameters(), lr=0.1))
    assert torch.equal(own[0].weight, before)


def test_the_given_optimizer_is_not_written():
    """Neither its groups, nor its state."""
    own = plain()
    optimizer = torch.optim.AdamW(own.parameters(), lr=0.1)
    trained(model=own, optimizer=optimizer, max_grad_norm=1.0)
    assert not optimizer.state
    assert "param_names" not in optimizer.param_groups[0]


def test_any_pure_optimizer_as_one_of_torch():
    """A TorchOptimizer by name is taken apart again; without names the error says what to give."""
    own = plain()
    rule = fnopt.chain(fnopt.Centralize(), fnopt.Lion(0.01))
    by_hand = trained(model=plain(), optimizer=fnopt.chain(fnopt.ClipNorm(1.0), rule))
    named = optim.TorchOptimizer(own.named_parameters(), rule)
    assert same(trained(model=own, optimizer=named, max_grad_norm=1.0).params, by_hand.params)
    own = plain()
    with pytest.raises(fnopt.FnoptError, match=r"make it of named parameters: model.named_parameters\(\)"):
        trainer(model=own, optimizer=optim.TorchOptimizer(own.parameters(), rule))
