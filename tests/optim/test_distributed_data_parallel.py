"""Under DistributedDataParallel a client of fnopt.optim ends where the same client of torch.optim ends."""

from contextlib import nullcontext

import pytest
import torch
from distributed_cases import (
    CLIP,
    KINDS,
    MORE_KINDS,
    WHOLE_KINDS,
    assert_same,
    distance,
    loss_of,
    make,
    net,
    outcome,
    rank,
    sharded,
)
from processes import pair as pair
from torch.nn.parallel import DistributedDataParallel


def replicated(library, kind, average=True, **more):
    """Four steps of two micro-batches; the gradients of the first one are added up without talking."""
    model = net()
    wrapped = DistributedDataParallel(model)
    optimizer = make(library, kind, wrapped.parameters(), **more)
    for step in range(4):
        with wrapped.no_sync():
            loss_of(wrapped, 2 * step, rank()).backward()
        with nullcontext() if average else wrapped.no_sync():
            loss_of(wrapped, 2 * step + 1, rank()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return outcome(model, optimizer)


def test_smoke(pair):
    """AdamW in two processes, under DDP and under FSDP2: torch's bits in both, whoever makes the optimizer."""
    for client in (replicated, sharded):
        ours, theirs = pair(client, "fnopt", "AdamW"), pair(client, "torch", "AdamW")
        assert_same(ours, theirs)
        assert_same(ours[0], ours[1])
        assert distance(ours[0], outcome(net(), torch.optim.SGD(net().parameters()))) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, *MORE_KINDS, *WHOLE_KINDS])
def test_bits(pair, kind):
    """Parameters and state are torch's to the bit, and the same in both processes."""
    ours = pair(replicated, "fnopt", kind)
    assert_same(ours, pair(replicated, "torch", kind))
    assert_same(ours[0], ours[1])


@pytest.mark.slow
def test_chain(pair):
    """A chain that clips equals clip_grad_norm_ before AdamW, up to the rounding of the norm."""
    ours, theirs = pair(replicated, "fnopt", CLIP), pair(replicated, "torch", CLIP)
    assert_same([end["params"] for end in ours], [end["params"] for end in theirs], rtol=1e-5, atol=1e-6)
    assert_same(ours[0], ours[1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("client", [replicated, sharded])
def test_compiled(pair, kind, client):
    """A compiled optimizer is torch's up to rounding, and still the same in both processes."""
    ours, theirs = pair(client, "fnopt", kind, compile=True), pair(client, "torch", kind)
    assert_same([end["params"] for end in ours], [end["params"] for end in theirs], rtol=1e-5, atol=1e-6)
    assert_same(ours[0], ours[1])


@pytest.mark.slow
def test_processes_have_different_gradients(pair):
    """Negative control: where nothing is averaged the two processes part."""
    one, other = pair(replicated, "fnopt", "AdamW", average=False)
    assert distance(one, other) > 1e-3


def fails_in_one(message):
    """A client that raises in the second process while the first waits for it."""
    if rank() == 1:
        raise ZeroDivisionError(message)
    torch.distributed.barrier()


@pytest.mark.slow
def test_a_child_that_fails_is_seen(pair):
    """Negative control: an error in one process comes with its traceback, and the next test has processes again."""
    with pytest.raises(AssertionError, match=r"(?s)process 1 failed.*in fails_in_one.*ZeroDivisionError: one of two"):
        pair(fails_in_one, "one of two")
    assert pair(rank) == [0, 1]
