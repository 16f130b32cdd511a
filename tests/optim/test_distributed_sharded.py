"""Under fully_shard (FSDP2) a client of fnopt.optim ends where the same client of torch.optim ends."""

import pytest
import torch
from distributed_cases import (
    CLIP,
    KINDS,
    MESHES,
    MORE_KINDS,
    assert_same,
    clip_shards,
    distance,
    make,
    net,
    options,
    outcome,
    shard,
    sharded,
    train,
    whole,
)
from processes import pair as pair
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor


def sharded_late(library, kind):
    """The optimizer is made before the shards, which replace the parameters of its groups, as Accelerate does."""
    model = net()
    optimizer = make(library, kind, model.parameters())
    model = shard(model)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    train(model, optimizer, range(4))
    return outcome(model, optimizer)


def frozen(library, kind):
    """One parameter does not train, one has no gradient in half of the steps."""
    model = shard(net())
    model[0].bias.requires_grad_(False)
    optimizer = make(library, kind, model.parameters())
    for step in range(4):
        train(model, Without(optimizer, model[3].bias if step % 2 else None), [step])
    return outcome(model, optimizer)


def flat(library, kind, originals):
    """Four steps under the older FullyShardedDataParallel, with or without the original parameters."""
    model = FullyShardedDataParallel(net(), use_orig_params=originals, device_id=torch.device("cpu"))
    optimizer = make(library, kind, model.parameters())
    train(model, optimizer, range(4))
    with FullyShardedDataParallel.summon_full_params(model):
        return whole(dict(model.named_parameters()))


class Without:
    """An optimizer whose step does not see one parameter's gradient."""

    def __init__(self, optimizer, param):
        self.optimizer, self.param, self.zero_grad = optimizer, param, optimizer.zero_grad

    def step(self):
        if self.param is not None:
            self.param.grad = None
        self.optimizer.step()


def clipped_by_shards(kind):
    """The mistake that a clipping optimizer must not make."""
    model = shard(net())
    optimizer = torch.optim.AdamW(model.parameters(), **options("torch", "AdamW"))
    optimizer.register_step_pre_hook(clip_shards)
    train(model, optimizer, range(4))
    return outcome(model, optimizer)


def layouts(library, kind):
    """For each tensor of the state that has dimensions: is it laid out over the processes as its parameter is."""
    model = shard(net())
    optimizer = make(library, kind, model.parameters())
    train(model, optimizer, range(2))
    return [
        isinstance(value, DTensor) and (value.placements, value.device_mesh) == (param.placements, param.device_mesh)
        for param, state in optimizer.state.items()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.ndim
    ]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("kind", [*KINDS, *MORE_KINDS, "Muon"])  # torch's Adafactor takes no DTensor
def test_bits(pair, kind, mesh):
    """Parameters and state are torch's to the bit, and the same in both processes, however they are laid out."""
    ours = pair(sharded, "fnopt", kind, mesh)
    assert_same(ours, pair(sharded, "torch", kind, mesh))
    assert_same(ours[0], ours[1])


@pytest.mark.slow
@pytest.mark.parametrize("client", [sharded_late, frozen])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_of_other_clients(pair, kind, client):
    """So they are when the parameters are replaced after the optimizer is made, and when gradients are missing."""
    ours = pair(client, "fnopt", kind)
    assert_same(ours, pair(client, "torch", kind))


@pytest.mark.slow
@pytest.mark.parametrize("originals", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_of_flat_shards(pair, kind, originals):
    """So they are under FullyShardedDataParallel, whose parameters are flat shards or views into them."""
    ours = pair(flat, "fnopt", kind, originals)
    assert_same(ours, pair(flat, "torch", kind, originals))
    assert_same(ours[0], ours[1])


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_chain(pair, mesh):
    """A chain that clips takes the norm over all shards, and over no copy twice, as clip_grad_norm_ does."""
    ours, theirs = pair(sharded, "fnopt", CLIP, mesh), pair(sharded, "torch", CLIP, mesh)
    assert_same([end["params"] for end in ours], [end["params"] for end in theirs], rtol=1e-5, atol=1e-6)
    assert_same(ours[0], ours[1])


@pytest.mark.slow
def test_a_norm_of_shards_would_be_seen(pair):
    """Negative control: clipping by the norm of one's own shards ends elsewhere."""
    right, wrong = pair(sharded, "torch", CLIP), pair(clipped_by_shards, CLIP)
    assert distance(right[0], wrong[0]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, CLIP])
def test_state_lies_where_the_parameters_lie(pair, kind):
    """State is DTensors with the placements of its parameter: nothing is gathered, and DCP can save shards."""
    for ours in pair(layouts, "fnopt", kind):
        assert ours
        assert all(ours)
