"""The defaults of every exported rule and transform, which are promises: mutation testing does not see them."""

import inspect

import attrs
import pytest
import torch

import fnopt
from fnopt.transforms.observe import grad_norm

REQUIRED = attrs.NOTHING
DEFAULTS = {
    "Adafactor": {
        "lr": 1e-2,
        "beta2_decay": -0.8,
        "eps": (None, 1e-3),
        "d": 1.0,
        "weight_decay": 0.0,
        "maximize": False,
    },
    "Adagrad": {
        "lr": 1e-2,
        "lr_decay": 0.0,
        "weight_decay": 0.0,
        "initial_accumulator_value": 0.0,
        "eps": 1e-10,
        "maximize": False,
    },
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
    "AdaptiveClip": {"clipping": 0.01, "eps": 1e-3},
    "AddNoise": {"std": REQUIRED, "seed": 0},
    "Centralize": {},
    "ClipNorm": {"max_norm": REQUIRED},
    "ClipParamNorm": {"max_norm": REQUIRED},
    "ClipValue": {"max_value": REQUIRED},
    "Lion": {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0, "maximize": False},
    "Muon": {
        "lr": 1e-3,
        "weight_decay": 0.1,
        "momentum": 0.95,
        "nesterov": True,
        "ns_coefficients": (3.4445, -4.775, 2.0315),
        "eps": 1e-7,
        "ns_steps": 5,
        "adjust_lr_fn": None,
    },
    "NanToZero": {},
    "RMSprop": {
        "lr": 1e-2,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "centered": False,
        "maximize": False,
    },
    "SGD": {
        "lr": 1e-3,
        "momentum": 0.0,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        "maximize": False,
        "decoupled_weight_decay": False,
    },
    "ScaleByAdam": {"betas": (0.9, 0.999), "eps": 1e-8},
    "ScheduleFree": {"optimizer": REQUIRED, "momentum": 0.9, "weight_lr_power": 2.0},
    "Tap": {"name": REQUIRED, "measure": grad_norm},
}
ARGUMENTS = {
    "compiled": {"step": REQUIRED, "donate": True, "at_once": False},
    "decay_labels": {"model": REQUIRED, "decay_embeddings": True},
    "ema": {"optimizer": REQUIRED, "decay": 0.999},
    "lookahead": {"optimizer": REQUIRED, "k": 5, "alpha": 0.5},
    "per_example_clip": {"grad_fn": REQUIRED, "max_norm": REQUIRED, "chunk_size": None},
    "sam": {"grad_fn": REQUIRED, "rho": 0.05},
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
    assert shared >= {"lr", "weight_decay"}
    assert {key: DEFAULTS[name][key] for key in shared} == {key: theirs[key].default for key in shared}


s, loss = fnopt.SGD(0.1), fnopt.value_and_grad(lambda params, batch: (params["w"].sum(), 1))
LEFT_OUT = {
    "ema": (fnopt.ema, (s,), {"decay": 0.999}),
    "lookahead": (fnopt.lookahead, (s,), {"k": 5, "alpha": 0.5}),
    "sam": (fnopt.sam, (loss,), {"rho": 0.05}),
    "accumulate": (fnopt.accumulate, (loss,), {"drop_nonfinite": False}),
    "warmup_cosine": (fnopt.warmup_cosine, (1.0, 2, 9), {"start": 0.0, "end": 0.0}),
    "warmup_stable_decay": (fnopt.warmup_stable_decay, (1.0, 2, 3, 4), {"start": 0.0, "end": 0.0, "shape": "linear"}),
    "ensemble": (fnopt.ensemble, (fnopt.make_step(loss, s), 2), {"batch": "shared"}),
    "make_step": (fnopt.make_step, (loss, s), {"loss_scale": fnopt.StaticLossScale(1.0)}),
    "init_state": (fnopt.make_step(loss, s).init_state, ({"w": torch.ones(1)},), {"seed": 0}),
    "decay_labels": (fnopt.decay_labels, (torch.nn.Embedding(2, 2),), {"decay_embeddings": True}),
}


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_an_argument_left_out_is_its_default(name):
    """What is made without arguments equals what is made with the defaults: they are used, not only declared."""
    function, required, defaults = LEFT_OUT[name]
    assert function(*required) == function(*required, **defaults)
