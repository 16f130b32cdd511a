"""Optimizers by name, and the groups with and without weight decay of a model."""

import inspect

import pytest
import torch
from torch import nn

import fnopt
from fnopt import optim
from fnopt.errors import HyperparameterError, StructureError, UsageError

NAMES = ("adamw", "adam", "sgd", "rmsprop", "adagrad", "adafactor", "muon", "lion")
NORMS = [
    nn.LayerNorm(4),
    nn.RMSNorm(4),
    nn.GroupNorm(2, 4),
    nn.BatchNorm1d(4),
    nn.BatchNorm2d(4),
    nn.BatchNorm3d(4),
    nn.SyncBatchNorm(4),
    nn.InstanceNorm1d(4, affine=True),
    nn.InstanceNorm2d(4, affine=True),
    nn.InstanceNorm3d(4, affine=True),
    nn.LayerNorm((2, 3)),  # its weight is a matrix
]
MATRICES = [nn.Linear(3, 4), nn.Conv2d(2, 3, 3), nn.Bilinear(2, 3, 4), nn.LSTM(3, 4), nn.MultiheadAttention(4, 2)]


class ScaleNormed(nn.Module):
    """A norm of somebody's own, known by its name, with a matrix."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2, 2))


class Tied(nn.Module):
    """A language model in small: the head's weight is the embedding's."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(5, 3), nn.LayerNorm(3), nn.Linear(3, 5)
        self.head.weight = self.embed.weight


def decayed(model, **more):
    """The names of the parameters with and without decay."""
    optimizer = optim.configure_optimizer(model, weight_decay=0.1, **more)
    found = {0.1: [], 0.0: []}
    for group in optimizer.param_groups:
        assert len(group["params"]) == len(group["param_names"])
        found[group["weight_decay"]] += group["param_names"]
    return found[0.1], found[0.0]


@pytest.mark.parametrize("name", NAMES)
def test_by_name(name):
    """Each name, in upper or lower case, makes the class of that name, with the numbers given."""
    for spelled in (name, name.upper(), name.title()):
        optimizer = optim.create_optimizer(spelled, [nn.Parameter(torch.ones(2, 2))], lr=0.25)
        assert optimizer.param_groups[0]["lr"] == 0.25
        if name == "lion":
            assert type(optimizer) is optim.TorchOptimizer
        else:
            assert type(optimizer).__name__.lower() == name
            assert isinstance(optimizer, getattr(torch.optim, type(optimizer).__name__))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_created_is_what_the_class_makes(name):
    """An optimizer by name updates as the one made by its class does."""
    ones = torch.ones(2, 2)
    params = [nn.Parameter(ones.clone()), nn.Parameter(ones.clone())]
    made = optim.create_optimizer(name, params[:1], lr=0.25, weight_decay=0.1)
    kind = {kind.lower(): getattr(optim, kind) for kind in vars(optim) if kind.lower() == name}.get(name)
    hand = kind and kind(params[1:], lr=0.25, weight_decay=0.1)
    hand = hand or optim.TorchOptimizer(params[1:], fnopt.Lion(0.25, weight_decay=0.1))
    for param, optimizer in zip(params, (made, hand), strict=True):
        param.grad = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
        optimizer.step()
    assert torch.equal(*params)
    assert not torch.equal(params[0], ones)


@pytest.mark.parametrize("name", ["adamm", "", "sgd ", "lbfgs", None])
def test_an_unknown_name_lists_the_known_ones(name):
    """An unknown name is a ValueError that lists every known one."""
    with pytest.raises(HyperparameterError) as caught:
        optim.create_optimizer(name, [nn.Parameter(torch.ones(1))])
    assert isinstance(caught.value, ValueError)
    assert repr(name) in str(caught.value)
    assert all(repr(known) in str(caught.value) for known in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_hyperparameter_lists_the_known_ones(name):
    """A hyperparameter that this optimizer lacks is a ValueError that lists all that it takes."""
    with pytest.raises(HyperparameterError, match=r"\['lrr', 'self'\]") as caught:
        optim.create_optimizer(name, [nn.Parameter(torch.ones(2, 2))], lrr=0.1, **{"self": 1})
    kind = fnopt.Lion if name == "lion" else type(optim.create_optimizer(name, [nn.Parameter(torch.ones(2, 2))]))
    takes = [key for key in inspect.signature(kind).parameters if key != "params"]
    assert all(repr(key) in str(caught.value) for key in takes)
    assert "params" not in str(caught.value).partition("takes")[2]


@pytest.mark.parametrize("value", [-1.0, "fast"])
def test_bad_numbers_are_refused(value):
    """A number out of range, or none, is an error when the optimizer is made."""
    for name in NAMES:
        with pytest.raises((ValueError, TypeError)):
            optim.create_optimizer(name, [nn.Parameter(torch.ones(2, 2))], lr=value)


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: type(norm).__name__)
def test_norms_have_no_decay(norm):
    """No parameter of a normalization layer of torch has decay, whatever its shape."""
    model = nn.Sequential(nn.Linear(3, 4), norm)
    with_decay, without = decayed(model)
    assert with_decay == ["0.weight"]
    assert {name for name, _ in model.named_parameters() if name.startswith("1.")} <= set(without)
    assert list(norm.parameters())


def test_a_norm_of_ones_own():
    """A class with Norm in its name, in any case, has no decay; another class has."""
    kinds = [type(name, (ScaleNormed,), {}) for name in ("MyNorm2d", "RMSNORM", "normalizer")]
    for kind in kinds:
        assert decayed(nn.Sequential(kind(), nn.Linear(2, 2)))[1] == ["0.gain", "1.bias"]
    assert decayed(nn.Sequential(type("Scaler", (nn.Linear,), {})(2, 2)))[0] == ["0.weight"]


@pytest.mark.parametrize("layer", MATRICES, ids=lambda layer: type(layer).__name__)
def test_matrices_have_decay_and_biases_have_none(layer):
    """Weights of at least two dimensions have decay, biases have none, by any of torch's names."""
    with_decay, without = decayed(layer)
    assert with_decay
    assert all("weight" in name for name in with_decay)
    assert all("bias" in name for name in without)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_embeddings_on_request(kind):
    """Embeddings have decay, unless decay_embeddings=False."""
    model = nn.Sequential(kind(5, 3), nn.Linear(3, 2))
    assert decayed(model) == (["0.weight", "1.weight"], ["1.bias"])
    assert decayed(model, decay_embeddings=False) == (["1.weight"], ["0.weight", "1.bias"])


def test_tied_weights_are_in_one_group_once():
    """A weight that two modules hold is there once, without decay if one of its owners asks for none."""
    assert decayed(Tied()) == (["embed.weight"], ["norm.weight", "norm.bias", "head.bias"])
    assert decayed(Tied(), decay_embeddings=False)[0] == []


def test_frozen_parameters_are_left_out():
    """A parameter that needs no gradient is in no group."""
    model = Tied()
    model.embed.weight.requires_grad_(False)
    assert decayed(model) == ([], ["norm.weight", "norm.bias", "head.bias"])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "muon"])
def test_every_parameter_is_in_one_group(name):
    """Each parameter that requires grad is in exactly one group, by its name, and all train."""
    model = nn.Sequential(nn.Embedding(5, 3), *MATRICES[:2], nn.LayerNorm(3), Tied())
    optimizer = optim.configure_optimizer(model, name)
    owned = [param for group in optimizer.param_groups for param in group["params"]]
    assert len(owned) == len(set(owned)) == len(list(model.parameters()))
    assert set(owned) == set(model.parameters())
    named = dict(model.named_parameters())
    for group in optimizer.param_groups:
        assert all(named[key] is param for key, param in zip(group["param_names"], group["params"], strict=True))
    before = [param.detach().clone() for param in owned]
    for param in owned:
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert not any(torch.equal(param, old) for param, old in zip(owned, before, strict=True))


def test_one_group_where_one_is_enough():
    """A model without matrices has one group without decay; a model of one matrix one group with it."""
    assert [g["weight_decay"] for g in optim.configure_optimizer(nn.LayerNorm(3)).param_groups] == [0.0]
    assert [g["weight_decay"] for g in optim.configure_optimizer(nn.Linear(2, 2, bias=False)).param_groups] == [0.01]


def test_hyperparameters_reach_every_group():
    """lr and all others are those of both groups; unknown ones are refused as by create_optimizer."""
    optimizer = optim.configure_optimizer(Tied(), "adamw", lr=0.25, betas=(0.5, 0.75), amsgrad=True)
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["amsgrad"]) == (0.25, (0.5, 0.75), True)
    with pytest.raises(HyperparameterError, match="momentum"):
        optim.configure_optimizer(Tied(), "adamw", momentum=0.9)
    with pytest.raises(HyperparameterError, match="adamw"):
        optim.configure_optimizer(Tied(), "nope")


def test_describe_says_who_gets_what():
    """The table lists every group with its rule and numbers, and each parameter with its shape and dtype."""
    optimizer = optim.configure_optimizer(Tied(), "sgd", lr=0.5, weight_decay=0.1, momentum=0.9)
    rule = "SGD(lr=0.5, momentum=0.9, dampening=0.0, weight_decay={}, nesterov=False, maximize=False, "
    rule += "decoupled_weight_decay=False)"
    assert optimizer.describe() == (
        f"group 0: {rule.format(0.1)}\n"
        "  1 tensor, 15 numbers\n"
        "    embed.weight  [5, 3]  float32\n"
        f"group 1: {rule.format(0.0)}\n"
        "  3 tensors, 11 numbers\n"
        "    norm.weight  [3]  float32\n"
        "    norm.bias    [3]  float32\n"
        "    head.bias    [5]  float32"
    )
    optimizer.param_groups[1]["lr"] = 0.25  # by a scheduler, say
    assert f"group 1: {rule.format(0.0)}".replace("lr=0.5", "lr=0.25") in optimizer.describe()


def test_models_without_parameters():
    """A model without a parameter that requires grad is a StructureError that says so."""
    frozen = nn.Linear(2, 2).requires_grad_(False)
    for model in (nn.Identity(), frozen):
        with pytest.raises(StructureError, match=f"{type(model).__name__} has no parameter that requires grad"):
            optim.configure_optimizer(model)


@pytest.mark.parametrize("what", [[torch.ones(1)], {"w": torch.ones(1)}, None, nn.Linear, nn.Linear(1, 1).parameters()])
def test_what_is_no_module(what):
    """Something else than a module is a UsageError with its type."""
    with pytest.raises(UsageError, match="expected a module"):
        optim.configure_optimizer(what)
