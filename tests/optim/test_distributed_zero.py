"""Under ZeroRedundancyOptimizer, which keeps a part of the state in each process, fnopt.optim ends where torch ends."""

import pytest
import torch
from distributed_cases import KINDS, LIBRARIES, assert_same, distance, loss_of, net, options, rank, train, whole
from processes import pair as pair
from torch.nn.parallel import DistributedDataParallel
from torch_distributed_optim import ZeroRedundancyOptimizer

pytestmark = pytest.mark.slow


def zero(library, kind, model, **more):
    """A ZeroRedundancyOptimizer that makes the optimizer's class in each process, for its part of the parameters."""
    arguments = options(library, kind) | more
    return ZeroRedundancyOptimizer(model.parameters(), optimizer_class=getattr(LIBRARIES[library], kind), **arguments)


def consolidated(optimizer):
    """The whole state, which the first process gathers; None in the other."""
    optimizer.consolidate_state_dict(to=0)
    return whole(optimizer.state_dict()["state"]) if rank() == 0 else None


def partitioned(library, kind, in_buckets=False):
    """Four steps under DDP."""
    wrapped = DistributedDataParallel(net())
    optimizer = zero(library, kind, wrapped, parameters_as_bucket_view=in_buckets)
    train(wrapped, optimizer, range(4))
    owned = len(optimizer.optim.state)
    return {"params": whole(dict(wrapped.module.named_parameters())), "state": consolidated(optimizer), "owned": owned}


def with_closure(library, kind):
    """Steps that run the loss themselves; the losses come back."""
    wrapped = DistributedDataParallel(net())
    optimizer, losses = zero(library, kind, wrapped), []

    def closure():
        optimizer.zero_grad()
        loss = loss_of(wrapped, len(losses), rank())
        loss.backward()
        return loss

    for _ in range(4):
        losses.append(optimizer.step(closure).detach())
    return {"params": whole(dict(wrapped.module.named_parameters())), "losses": torch.stack(losses)}


def resumed(writer, reader, kind, load=True):
    """Four steps, of which a new optimizer in a new model takes the last two with what it loads from the first one.

    The learning rate changes before the save: it must come along, from the groups that ZeRO keeps in step with ours.
    """
    first = DistributedDataParallel(net())
    optimizer = zero(writer, kind, first)
    train(first, optimizer, range(2))
    optimizer.param_groups[0]["lr"] *= 0.5
    optimizer.consolidate_state_dict(to=0)
    saved = [optimizer.state_dict() if rank() == 0 else None]
    torch.distributed.broadcast_object_list(saved)
    second = DistributedDataParallel(net(seed=1))
    second.module.load_state_dict(first.module.state_dict())
    optimizer = zero(reader, kind, second)
    if load:
        optimizer.load_state_dict(saved[0])
    train(second, optimizer, range(2, 4))
    return {"params": whole(dict(second.module.named_parameters())), "state": consolidated(optimizer)}


def lonely(library, kind):
    """One parameter for two processes: the optimizer of one of them has none."""
    wrapped = DistributedDataParallel(torch.nn.Linear(6, 4, bias=False))
    wrapped.module.load_state_dict({"weight": torch.arange(24.0).view(4, 6) / 24})
    optimizer = zero(library, kind, wrapped)
    train(wrapped, optimizer, range(3))
    return {"params": whole(dict(wrapped.module.named_parameters())), "state": consolidated(optimizer)}


def grown(library, kind):
    """A group of parameters is added after the first steps."""
    wrapped = DistributedDataParallel(net())
    optimizer = zero(library, kind, wrapped.module[0])
    train(wrapped, optimizer, range(2))
    optimizer.add_param_group({"params": list(wrapped.module[3].parameters()), "lr": 0.02})
    train(wrapped, optimizer, range(2, 4))
    return {"params": whole(dict(wrapped.module.named_parameters())), "state": consolidated(optimizer)}


@pytest.mark.parametrize("in_buckets", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_bits(pair, kind, in_buckets):
    """Parameters and gathered state are torch's to the bit; no process holds all of the state."""
    ours = pair(partitioned, "fnopt", kind, in_buckets)
    assert_same(ours, pair(partitioned, "torch", kind, in_buckets))
    assert_same(ours[0]["params"], ours[1]["params"])
    assert sum(end["owned"] for end in ours) == 6
    assert all(end["owned"] < 6 for end in ours)


@pytest.mark.parametrize("client", [with_closure, lonely, grown])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_of_other_clients(pair, kind, client):
    """So they are when the step takes a closure, when a process has no parameter, when a group is added."""
    ours = pair(client, "fnopt", kind)
    assert_same(ours, pair(client, "torch", kind))
    assert_same(ours[0]["params"], ours[1]["params"])


@pytest.mark.parametrize("libraries", [("fnopt", "fnopt"), ("torch", "fnopt"), ("fnopt", "torch")], ids="-".join)
@pytest.mark.parametrize("kind", KINDS)
def test_resumes(pair, kind, libraries):
    """What was gathered in one process loads in both and goes on with torch's bits, also from the one to the other."""
    ours = pair(resumed, *libraries, kind)
    assert_same(ours, pair(resumed, "torch", "torch", kind))


def test_a_lost_state_would_be_seen(pair):
    """Negative control: a run that goes on with a new state ends elsewhere."""
    kept, lost = pair(resumed, "torch", "torch", "AdamW"), pair(resumed, "torch", "torch", "AdamW", False)
    assert distance(kept[0], lost[0]) > 1e-3
