"""The model, data and optimizers of the distributed tests, and how two runs are compared."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import fnopt
from fnopt import optim

MAX_NORM = 0.05  # below every gradient norm of these runs, so that each step is clipped
CLIP = "ClipNorm, AdamW"
KINDS = {  # the two that every client is run with
    "AdamW": {"lr": 1e-2, "weight_decay": 0.1},
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
}
MORE_KINDS = {
    "Adam": {"lr": 1e-2, "amsgrad": True, "weight_decay": 0.01},
    "RMSprop": {"lr": 1e-3, "centered": True, "momentum": 0.5},
    "Adagrad": {"lr": 1e-2, "lr_decay": 0.1},
}
WHOLE_KINDS = {  # they look at whole parameters, Muon at matrices only (torch's at no DTensor of one row)
    "Muon": {"lr": 1e-2, "weight_decay": 0.1},
    "Adafactor": {"lr": 1e-2, "weight_decay": 0.1},
}
MESHES = {"shards": (2,), "copies": (2, 1), "copies of shards": (1, 2)}
LIBRARIES = {"torch": torch.optim, "fnopt": optim}


def options(library, kind):
    """The arguments of an optimizer; torch's own is the for-loop, whose bits are the ones promised."""
    loop = {"foreach": False} if library == "torch" and kind != "Muon" else {}
    return {**KINDS, **MORE_KINDS, **WHOLE_KINDS}[kind] | loop


def make(library, kind, params, **more):
    """An optimizer of torch.optim or of fnopt.optim; CLIP is a chain in fnopt and a hook that clips in torch."""
    params = [param for param in params if kind != "Muon" or (param.ndim == 2 and len(param) > 1)]
    if kind != CLIP:
        return getattr(LIBRARIES[library], kind)(params, **options(library, kind), **more)
    if library == "fnopt":
        return optim.TorchOptimizer(params, fnopt.chain(fnopt.ClipNorm(MAX_NORM), fnopt.AdamW(**KINDS["AdamW"])))
    optimizer = torch.optim.AdamW(params, **options("torch", "AdamW"))
    optimizer.register_step_pre_hook(clip)
    return optimizer


def clip(optimizer, args, kwargs):
    """torch's way to clip all gradients by their common norm."""
    every = [p for group in optimizer.param_groups for p in group["params"]]
    assert nn.utils.clip_grad_norm_(every, MAX_NORM, foreach=False) > MAX_NORM


def clip_shards(optimizer, args, kwargs):
    """The mistake: each process clips by the norm of the shards that it holds."""
    every = [p for group in optimizer.param_groups for p in group["params"]]
    shards = [p.grad.to_local() for p in every]
    norm = torch.stack([shard.norm() for shard in shards]).norm()
    for shard in shards:
        shard.mul_(torch.clamp(MAX_NORM / (norm + 1e-6), max=1.0))


def net(seed=0):
    """Six parameters; their first dimensions 5, 5, 1, 1, 4 and 4 leave uneven and empty shards on two processes."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1), nn.Linear(1, 4))


def loss_of(model, step, rank=0):
    """The loss of one batch, another one for each step and process."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    x, y = torch.randn(8, 6, generator=generator), torch.randn(8, 4, generator=generator)
    return nn.functional.mse_loss(model(x), y)


def rank():
    """This process's number; 0 where there is but one."""
    return dist.get_rank() if dist.is_initialized() else 0


def train(model, optimizer, steps):
    """The usual loop."""
    for step in steps:
        loss_of(model, step, rank()).backward()
        optimizer.step()
        optimizer.zero_grad()


def whole(tree):
    """The same nested dicts and lists, with a copy of its full value for each tensor; all processes call it."""
    if isinstance(tree, dict):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [whole(value) for value in tree]
    if isinstance(tree, torch.Tensor):
        return (tree.full_tensor() if isinstance(tree, DTensor) else tree).detach().clone()
    return tree


def outcome(model, optimizer):
    """What a run leaves: the parameters, and the optimizer's state per parameter."""
    return {"params": whole(dict(model.named_parameters())), "state": whole(optimizer.state_dict()["state"])}


def shard(model, mesh="shards"):
    """The model, each linear layer of it a unit of its own."""
    names = ("replicate", "shard")[-len(MESHES[mesh]) :]
    mesh = init_device_mesh("cpu", MESHES[mesh], mesh_dim_names=names)
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def sharded(library, kind, mesh="shards", **more):
    """Four steps on DTensors."""
    model = shard(net(), mesh)
    optimizer = make(library, kind, model.parameters(), **more)
    train(model, optimizer, range(4))
    return outcome(model, optimizer)


def assert_same(ours, theirs, **tolerances):
    """Two nests of tensors and numbers have the same keys, shapes, dtypes and bits (or are as close as asked)."""
    torch.testing.assert_close(ours, theirs, **(tolerances or {"rtol": 0, "atol": 0}))


def distance(one, other):
    """The largest difference of two runs' parameters."""
    return max(float((one["params"][k] - other["params"][k]).abs().max()) for k in one["params"])
