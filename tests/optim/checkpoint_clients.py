"""Clients of torch.distributed.checkpoint: a run is saved, and a new model with a new optimizer goes on with it."""

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from distributed_cases import loss_of, make, net, outcome, rank, shard, train
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)


def setup(library, kind, seed=0):
    """A model and its optimizer, sharded where there are processes."""
    model = net(seed)
    if dist.is_initialized():
        shard(model)
    return model, make(library, kind, model.parameters())


def ended(model, optimizer):
    """What a run leaves, and the learning rate that it ends with."""
    return outcome(model, optimizer) | {"lr": optimizer.param_groups[0]["lr"]}


def save(library, kind, folder, flatten):
    """Three steps, then a checkpoint."""
    model, optimizer = setup(library, kind)
    train(model, optimizer, range(3))
    optimizer.param_groups[0]["lr"] *= 0.5
    params, state = get_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=flatten))
    dcp.save({"model": params, "optimizer": state}, checkpoint_id=folder)
    return outcome(model, optimizer)


def load(library, kind, folder, flatten):
    """A new model and optimizer, as saved."""
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    model, optimizer = setup(library, kind, seed=1)
    params, state = get_state_dict(model, optimizer, options=options)
    dcp.load({"model": params, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=params, optim_state_dict=state, options=options)
    return model, optimizer


def loaded(library, kind, folder, flatten):
    """What a load leaves."""
    return outcome(*load(library, kind, folder, flatten))


def resumed(writer, reader, kind, folder, flatten):
    """Three steps, a checkpoint, three more steps of a new run that loads it."""
    save(writer, kind, folder, flatten)
    model, optimizer = load(reader, kind, folder, flatten)
    train(model, optimizer, range(3, 6))
    return ended(model, optimizer)


def through_memory(writer, reader, kind):
    """The same without files: the first process has the full state dicts, and the other gets its part from there."""
    alone = {"full_state_dict": True, "cpu_offload": True}
    model, optimizer = setup(writer, kind)
    train(model, optimizer, range(3))
    optimizer.param_groups[0]["lr"] *= 0.5
    params, state = get_state_dict(model, optimizer, options=StateDictOptions(**alone))
    model, optimizer = setup(reader, kind, seed=1)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=dist.is_initialized())
    set_model_state_dict(model, params if rank() == 0 else {}, options=options)
    set_optimizer_state_dict(model, optimizer, state if rank() == 0 else {}, options=options)
    train(model, optimizer, range(3, 6))
    return ended(model, optimizer)


def straight(library, kind):
    """The run that is never interrupted."""
    model, optimizer = setup(library, kind)
    train(model, optimizer, range(3))
    optimizer.param_groups[0]["lr"] *= 0.5
    train(model, optimizer, range(3, 6))
    return ended(model, optimizer)


def in_one_piece_each(writer, reader, kind):
    """One optimizer for each parameter, saved and loaded together under the names of the parameters."""
    model = net()
    optimizers = [make(writer, kind, [param]) for param in model.parameters()]
    steps_of_all(model, optimizers, range(3))
    state = get_optimizer_state_dict(model, optimizers)
    optimizers = [make(reader, kind, [param]) for param in model.parameters()]
    set_optimizer_state_dict(model, optimizers, state)
    steps_of_all(model, optimizers, range(3, 6))
    return [outcome(model, optimizer) for optimizer in optimizers]


def steps_of_all(model, optimizers, steps):
    """The usual loop with many optimizers."""
    for step in steps:
        model.zero_grad()
        loss_of(model, step).backward()
        for optimizer in optimizers:
            optimizer.step()


def untouched(library, kind):
    """A new run asked for its state dict, made by a step with lr 0: the parameters before and after, and the names."""
    model, optimizer = setup(library, kind)
    before = outcome(model, optimizer)["params"]
    state = get_optimizer_state_dict(model, optimizer)
    return before, outcome(model, optimizer)["params"], sorted(state["state"])
