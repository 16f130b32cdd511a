"""What the tests of foreign trainers share: small models and data, and two runs of one client compared bit by bit.

A run takes the module to find its optimizers in, `torch.optim` or `fnopt.optim`, and is otherwise the same code.
"""

from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, TensorDataset

import fnopt
from fnopt import optim

ARGUMENTS = {
    "AdamW": {"lr": 1e-2, "weight_decay": 0.1},
    "SGD": {"lr": 5e-2, "momentum": 0.9, "weight_decay": 0.01},
    "Adam": {"lr": 1e-2, "weight_decay": 0.1},
    "RMSprop": {"lr": 1e-3, "momentum": 0.5},
    "Adagrad": {"lr": 2e-2, "lr_decay": 0.1},
    "Adafactor": {"lr": 5e-2},
}
NAMES = ("AdamW", "SGD")  # in the clients that take long
# The gradient of an attention's key bias is zero but for rounding; with a smaller eps, AdamW would blow that up.
CLIPPED = {**ARGUMENTS["AdamW"], "eps": 1e-5}
MAX_NORM = 0.2  # small enough to bind at every step of these models


def arguments(name, **changes):
    """The arguments that all tests use; torch updates one parameter at a time, which fnopt's bits are those of."""
    return {**ARGUMENTS[name], "foreach": False, **changes}


def maker(module, name, **changes):
    """What makes the optimizer of this name in `module`, with the arguments that all tests use, of parameters."""
    return lambda params: getattr(module, name)(params, **arguments(name, **changes))


def clipped_adamw(params):
    """The adapter over a pure chain: AdamW with the clipping that trainers do themselves."""
    return optim.TorchOptimizer(params, fnopt.chain(fnopt.ClipNorm(MAX_NORM), fnopt.AdamW(**CLIPPED)))


def torchs_adamw(params):
    """What `clipped_adamw` does but for the clipping."""
    return torch.optim.AdamW(params, foreach=False, **CLIPPED)


def classifier(seed=0, dropout=0.1):
    """Four numbers to three classes, the same weights for the same seed."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


def examples(count=24):
    """(x, y): points and their class, learnable."""
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(5))
    return x, x[:, :3].argmax(1)


def batches(count):
    """A loader of this many batches of 4 examples, in order."""
    # Each pass draws a seed; from the global generator, a resumed run would draw other ones.
    return DataLoader(TensorDataset(*examples(4 * count)), batch_size=4, generator=torch.Generator())


def forget_accelerator():
    """Drop the device and the precision that Accelerate keeps for the whole process, as in a new one."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def noted_steps():
    """A list that grows by every step of every optimizer: a run that was resumed in truth makes fewer."""
    steps = []
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: steps.append(type(optimizer)))
    try:
        yield steps
    finally:
        hook.remove()


def outcome(model, *optimizers):
    """Everything that a run leaves: weights and, per optimizer, its class, state and groups. A copy."""
    found = {"params": {name: leaf.detach().clone() for name, leaf in model.state_dict().items()}}
    for place, optimizer in enumerate(optimizers):
        assert optimizer.state, "the optimizer never stepped"
        found[f"optimizer {place}"] = leaves(optimizer.state_dict())
        found[f"optimizer {place} is ours"] = isinstance(optimizer, optim.TorchOptimizer)
    return found


def leaves(tree, path=""):
    """A nested dict or list by path; tensors copied."""
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {name: leaf for key, part in items for name, leaf in leaves(part, f"{path}/{key}").items()}
    return {path: tree.detach().clone() if isinstance(tree, torch.Tensor) else tree}


def assert_drop_in(ours, theirs):
    """The first run used fnopt's optimizers, the second torch's, and they left the same bits."""
    for name in [name for name in theirs if name.endswith("is ours")]:
        assert (ours[name], theirs[name]) == (True, False)
    assert_same_bits(ours, theirs)


def assert_same_bits(run, other):
    """Weights, optimizer states and group entries of two runs are equal; what torch's groups lack is not compared."""
    for part in [part for part in other if not part.endswith("is ours")]:
        missing = other[part].keys() - run[part].keys()
        assert not missing, f"{part}: no {sorted(missing)}"
        for name, theirs in other[part].items():
            assert equal(run[part][name], theirs), f"{part}{name}: {run[part][name]} is not {theirs}"


def equal(mine, theirs):
    """Bit equality and the same dtype for tensors; equality and the same type for the rest."""
    if isinstance(theirs, torch.Tensor):
        return isinstance(mine, torch.Tensor) and mine.dtype == theirs.dtype and torch.equal(mine, theirs)
    return type(mine) is type(theirs) and mine == theirs


def gap(run, other):
    """The largest difference between the weights of two runs."""
    return max((run["params"][name] - leaf).abs().max().item() for name, leaf in other["params"].items())
