"""The defaults of every exported rule and transform, which are promises: mutation testing does not see them."""

import inspect

import attrs
import pytest
import torch

import fnopt

REQUIRED = attrs.NOTHING
DEFAULTS = {
    "Adam": {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "amsgrad": False,
        "maximize": False,
    },
    "AdamW": {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 1e-2,
        "amsgrad": False,
        "maximize": False,
    },
    "ClipNorm": {"max_norm": REQUIRED},
    "ClipValue": {"max_value": REQUIRED},
    "SGD": {
        "lr": 1e-3,
        "momentum": 0.0,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        "maximize": False,
        "decoupled_weight_decay": False,
    },
}
ARGUMENTS = {
    "decay_labels": {"model": REQUIRED, "decay_embeddings": True},
    "ema": {"optimizer": REQUIRED, "decay": 0.999},
}
EXPORTED = {
    name: thing
    for name, thing in vars(fnopt).items()
    if attrs.has(thing) and thing.__module__.startswith(("fnopt.rules.", "fnopt.transforms."))
}


def test_the_table_is_complete():
    """Every exported rule and transform stands in the table: whoever adds one writes its defaults down twice."""
    assert sorted(EXPORTED) == sorted(DEFAULTS)


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_defaults_are_those_of_the_table(name):
    """Fields, their order, their defaults and the types of these are those of the table."""
    fields = {field.name: field.default for field in attrs.fields(EXPORTED[name])}
    assert repr(fields) == repr(DEFAULTS[name])


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_arguments_are_those_of_the_table(name):
    """Arguments of the functions that have defaults, and these, are those of the table."""
    parameters = inspect.signature(getattr(fnopt, name)).parameters
    found = {key: REQUIRED if p.default is inspect.Parameter.empty else p.default for key, p in parameters.items()}
    assert repr(found) == repr(ARGUMENTS[name])


@pytest.mark.parametrize("name", [name for name in sorted(DEFAULTS) if hasattr(torch.optim, name)])
def test_defaults_are_those_of_torch(name):
    """Where torch.optim's constructor has the name too, the defaults are equal."""
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    shared = DEFAULTS[name].keys() & theirs.keys()
    assert shared >= {"lr", "weight_decay", "maximize"}
    assert {key: DEFAULTS[name][key] for key in shared} == {key: theirs[key].default for key in shared}
