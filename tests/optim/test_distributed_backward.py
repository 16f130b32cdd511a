"""Optimizers that step within backward, one for each parameter: fnopt.optim ends where torch.optim ends."""

import pytest
import torch
from distributed_cases import (
    CLIP,
    KINDS,
    LIBRARIES,
    MORE_KINDS,
    assert_same,
    loss_of,
    make,
    net,
    options,
    rank,
    shard,
    sharded,
    whole,
)
from processes import pair as pair
from torch_distributed_optim import apply_optimizer_in_backward, get_in_backward_optimizers

ALL = [*KINDS, *MORE_KINDS]


def state_of(optimizers):
    """The states of many optimizers."""
    return [whole(optimizer.state_dict()["state"]) for optimizer in optimizers]


def outcome(model, optimizers):
    """What a run leaves: parameters, states, and the gradients that are there."""
    gradients = [name for name, param in model.named_parameters() if param.grad is not None]
    return {"params": whole(dict(model.named_parameters())), "state": state_of(optimizers), "gradients": gradients}


def applied(library, kind):
    """torch's private helper, which makes the optimizers; the first layer has a class and arguments of its own."""
    model = net()
    optimizer, sgd = getattr(LIBRARIES[library], kind), LIBRARIES[library].SGD
    apply_optimizer_in_backward(sgd, model[0].parameters(), options(library, "SGD"))
    apply_optimizer_in_backward(optimizer, [*model[2].parameters(), *model[3].parameters()], options(library, kind))
    for step in range(4):
        loss_of(model, step).backward()
    return outcome(model, get_in_backward_optimizers(model))


def hooked(library, kind):
    """The public way: a hook that steps when a parameter's gradient is complete, and drops the gradient."""
    return in_hooks(net(), library, kind)


def hooked_shards(library, kind):
    """The same, on DTensors."""
    return in_hooks(shard(net()), library, kind)


def in_hooks(model, library, kind):
    """Four steps of a model whose parameters each have an optimizer in a hook."""
    optimizers = {param: make(library, kind, [param]) for param in model.parameters()}

    def hook(param):
        optimizers[param].step()
        optimizers[param].zero_grad()

    for param in model.parameters():
        param.register_post_accumulate_grad_hook(hook)
    for step in range(4):
        loss_of(model, step, rank()).backward()
    return outcome(model, optimizers.values())


def afterwards(library, kind):
    """One optimizer that steps after backward."""
    model = net()
    optimizer = make(library, kind, model.parameters())
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
    return whole(dict(model.named_parameters()))


@pytest.mark.parametrize("client", [applied, hooked])
@pytest.mark.parametrize("kind", ALL)
def test_bits(kind, client):
    """Parameters and states are torch's to the bit, and no gradient is left."""
    ours = client("fnopt", kind)
    assert_same(ours, client("torch", kind))
    assert ours["gradients"] == []
    assert len(ours["state"]) == 6
    assert all(ours["state"])


@pytest.mark.parametrize("kind", ALL)
def test_within_is_after(kind):
    """Where the rule looks at one parameter at a time, stepping within backward is stepping after it."""
    assert_same(hooked("fnopt", kind)["params"], afterwards("fnopt", kind))


def test_a_chain_clips_each_alone():
    """A chain for each parameter clips by that parameter's own norm, as clip_grad_norm_ of each does."""
    ours, theirs = hooked("fnopt", CLIP), hooked("torch", CLIP)
    assert_same(ours["params"], theirs["params"], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours["params"]["0.weight"], afterwards("fnopt", CLIP)["0.weight"], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
def test_bits_of_shards(pair, kind):
    """Under fully_shard the hooks see the shards' gradients after they were averaged, and step with torch's bits."""
    ours = pair(hooked_shards, "fnopt", kind)
    assert_same(ours, pair(hooked_shards, "torch", kind))
    assert_same([end["params"] for end in ours], [end["params"] for end in pair(sharded, "torch", kind)])
