"""What the tests of gradients of training share: rules with their numbers switched on, a run, and its objective."""

import attrs
import torch

from fnopt import (
    SGD,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    AdaptiveClip,
    AddNoise,
    Centralize,
    ClipNorm,
    ClipParamNorm,
    Lion,
    Muon,
    RMSprop,
    ScaleByAdam,
    ScheduleFree,
    chain,
    ema,
    evolve,
    freeze,
    linear,
    lookahead,
    partition,
)
from fnopt.transforms.chain import eval_params

F64 = torch.float64
RULES = {
    "SGD": SGD(0.1, momentum=0.9, dampening=0.1, weight_decay=0.1),
    "SGD, Nesterov": SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "SGD, decoupled": SGD(0.1, momentum=0.9, weight_decay=0.1, decoupled_weight_decay=True),
    "Adam": Adam(0.1, eps=1e-3, weight_decay=0.1),
    "AdamW": AdamW(0.1, eps=1e-3, weight_decay=0.1),
    "AdamW, amsgrad": AdamW(0.1, betas=(0.8, 0.9), eps=1e-3, amsgrad=True, maximize=True),
    "RMSprop": RMSprop(0.1, alpha=0.9, eps=1e-3, weight_decay=0.1),
    "RMSprop, centered": RMSprop(0.1, alpha=0.9, eps=1e-3, weight_decay=0.1, momentum=0.9, centered=True),
    "Adagrad": Adagrad(0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.5, eps=1e-3),
    "Adafactor": Adafactor(0.1, d=1.01, weight_decay=0.1),  # at d = 1 its first step of a vector is on an edge
    "Lion": Lion(0.1, weight_decay=0.1),
    "ScheduleFree of SGD": ScheduleFree(SGD(linear(0.05, 0.2, steps=3)), momentum=0.8),
    "ScheduleFree, first rate 0": ScheduleFree(SGD(linear(0.0, 0.2, steps=3)), momentum=0.8),
    "ScheduleFree of AdamW": ScheduleFree(AdamW(0.1, betas=(0.0, 0.999), eps=1e-3), momentum=0.8),
    "lookahead": lookahead(SGD(0.1, momentum=0.9), 2),
    "ema": ema(AdamW(0.1, eps=1e-3), 0.9),
    "clipped": chain(ClipNorm(0.5), ScaleByAdam(eps=1e-3), ClipParamNorm(0.9), SGD(0.1)),
    "adaptive": chain(Centralize(), AdaptiveClip(0.1, eps=1.5), AddNoise(0.1), RMSprop(0.1, eps=1e-3)),
    "partition": freeze(partition({"a": SGD(0.1), "b": Adagrad(0.1)}, {"m": "a", "v": "b"}), "s"),
}
# Muon's direction passes bfloat16: its derivative is finite, and right for what acts after (lr, decay)
ALL = {**RULES, "Muon": partition({"a": Muon(0.1), "b": SGD(0.1)}, {"m": "a", "v": "b", "s": "b"})}


def data(dtype=F64, silent=False):
    """Params and the constant part of four gradients; if `silent`, a row, an entry and a scalar never have any."""
    gen = torch.Generator().manual_seed(0)
    shapes = {"m": (3, 2), "v": (3,), "s": ()}

    def normal():
        return {name: torch.randn(shape, generator=gen, dtype=F64).to(dtype) for name, shape in shapes.items()}

    params, forces = normal(), [normal() for _ in range(4)]
    heard = {name: torch.ones(shape, dtype=dtype) for name, shape in shapes.items()}
    if silent:
        heard["m"][0], heard["v"][1], heard["s"] = 0.0, 0.0, torch.zeros((), dtype=dtype)
    return params, forces, heard


def train(optimizer, params, forces, heard, pull=0.3):
    """The weights that are trained and those that are evaluated, after gradients that also depend on the weights."""
    state = optimizer.init_state(params)
    for force in forces:
        grads = {name: (force[name] + pull * p) * heard[name] for name, p in params.items()}
        params, state = optimizer.update(grads, state, params)
    return params, eval_params(optimizer, state, params)


def objective(results):
    """A number that every entry of the weights counts in, each with its own weight."""
    trained, evaluated = results
    weights = torch.linspace(0.5, 1.5, 7, dtype=F64)
    entries = [torch.cat([leaf.reshape(-1) for leaf in tensors.values()]) for tensors in (trained, evaluated)]
    return sum((x.square() * weights.repeat(3)[: len(x)].to(x)).sum() + x.sum() for x in entries)


def numbers(record, path=()):
    """The places of all floats in a record, also within tuples, dicts and records; a 0.0 is something switched off."""
    for name, value in children(record):
        if isinstance(value, float) and value:
            yield (*path, name)
        elif isinstance(value, tuple | dict) or attrs.has(type(value)):
            yield from numbers(value, (*path, name))


def children(value):
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, tuple):
        return list(enumerate(value))
    static = [field.name for field in attrs.fields(type(value)) if field.metadata.get("static")]
    return [(field.name, getattr(value, field.name)) for field in attrs.fields(type(value)) if field.name not in static]


def put(record, path, new):
    """The same record with `new` at a place; with a function, with what it makes of the number there."""
    name, *rest = path
    child = dict(children(record))[name]
    value = put(child, rest, new) if rest else new(child) if callable(new) else new
    if isinstance(record, tuple):
        return (*record[:name], value, *record[name + 1 :])
    return {**record, name: value} if isinstance(record, dict) else evolve(record, **{name: value})


def as_tensors(record, dtype=F64):
    """The record with 0-d tensors for all its numbers."""
    for path in numbers(record):
        record = put(record, path, lambda value: torch.tensor(value, dtype=dtype))
    return record


def value_at(record, path):
    """The number at a place, as a float64 tensor."""
    for name in path:
        record = dict(children(record))[name]
    return torch.tensor(record, dtype=F64)


def owner(record, path):
    """The class and the field that a number belongs to."""
    found = None
    for name in path:
        found = (type(record).__name__, name) if attrs.has(type(record)) else found
        record = dict(children(record))[name]
    return found
