"""What the tests of the step share: small models with every trap of a module, drawn batches, comparison to the bit."""

from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fnopt import StaticLossScale, TrainState


def tensors(*trees):
    """The tensors of pytrees, in order."""
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, Tensor)]


def identical(a, b):
    """The same structure, dtypes, shapes and bits: a nan is itself, and 0 is not -0."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape
        bits, others = (leaf.reshape(-1).contiguous().view(torch.uint8) for leaf in (a, b))
        return same and torch.equal(bits, others)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, TrainState):
        return all(identical(getattr(a, name), getattr(b, name)) for name in TrainState.__annotations__)
    return a == b


@contextmanager
def untouched(*trees):
    """Nothing in these pytrees is written to, with other bits or with the same."""
    leaves = tensors(*trees)
    before = [(leaf.detach().clone(), leaf._version) for leaf in leaves]
    yield
    for leaf, (copy, version) in zip(leaves, before, strict=True):
        assert identical(leaf.detach(), copy)
        assert leaf._version == version


def portrait(model):
    """All that a step could spoil of a live module: which tensors it holds where, their bits, flags and grads."""
    held = {}
    for path, module in model.named_modules(remove_duplicate=False):
        held[path] = module.training, sorted(vars(module))
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                grad = None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())
                held[f"{path}.{name}"] = id(tensor), tensor.tolist(), tensor._version, tensor.requires_grad, grad
    return held


class Assigning(nn.Module):
    """Buffers that are assigned, not written to; one that no state_dict shows; a count."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("average", torch.zeros(4))
        self.register_buffer("hidden", torch.zeros(()), persistent=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        y = self.linear(x)
        self.average = 0.9 * self.average + 0.1 * y.detach().mean(0)
        self.hidden = self.hidden + y.sum()  # with its graph: a careless module
        self.calls += 1
        return y - self.average


class Shared(nn.Module):
    """A submodule reached by two paths, a weight tied between two modules, one parameter under two names in one."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = self.a
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.a.weight
        self.gain = nn.Parameter(torch.ones(4))
        self.alias = self.gain

    def forward(self, x):
        return self.head(self.b(self.a(x) * self.gain).tanh() * self.alias)


class Partial(nn.Module):
    """A frozen parameter on the way, and one that the loss does not use."""

    def __init__(self):
        super().__init__()
        self.first, self.frozen, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(2, 2)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.frozen(self.first(x).tanh())


def mlp(*extra):
    """Two layers, with others between."""
    return nn.Sequential(nn.Linear(4, 8), *extra, nn.Tanh(), nn.Linear(8, 4))


MODELS = {
    "mlp": mlp,
    "batch_norm": lambda: mlp(nn.BatchNorm1d(8)),
    "dropout": lambda: mlp(nn.Dropout(0.5)),
    "both": lambda: nn.Sequential(mlp(nn.BatchNorm1d(8)), mlp(nn.Dropout(0.3)), nn.BatchNorm1d(4, momentum=None)),
    "assigning": Assigning,
    "shared": Shared,
    "partial": Partial,
    "embedding": lambda: nn.Sequential(Tied(), nn.Dropout(0.2)),
    "parametrized": lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 4)),
}


class Tied(nn.Module):
    """A language model's embedding, whose weight is that of the head; takes any numbers for tokens."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.embedding(x.abs().mul(10).long() % 7))[..., :4].mean(1)


def make_model(kind, seed):
    """One of MODELS with weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[kind]()


def make_batch(seed, n=8, dtype=torch.float32):
    """n inputs and targets."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, n, 4, generator=generator, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


def ended(steps):
    """The last state of a run."""
    state = None
    for state, _ in steps:  # noqa: B007
        pass
    return state


def squared(model, batch):
    """The loss of these tests: the sum of squared errors, over samples."""
    x, y = batch
    return (model(x) - y).square().sum(), len(x)


def state_of(params, optimizer, **more):
    """A state around these params, uncopied: inside a transform, where init_state would be traced too."""
    scale = StaticLossScale().init_state(params)
    return TrainState.of(params, opt_state=optimizer.init_state(params), loss_scale=scale, **more)


def nonfinite_loss(params, kind):
    """A loss, over one sample, of which only the value ("loss") or only the gradient ("gradient") is not finite."""
    w = params["w"].sum()
    return {"loss": w + float("inf"), "gradient": (w * 0).sqrt() + w, "good": w}[kind], 1
