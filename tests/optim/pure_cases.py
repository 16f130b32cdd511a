"""Every pure optimizer that fnopt exports, found by introspection, and steps of it by hand."""

import inspect

import torch
from contract_cases import draw
from torch import nn

import fnopt
from fnopt import SGD, AdamW, AddNoise, ClipNorm, ScaleByAdam, chain, ema, freeze, lookahead, partition

SHAPES = {"a": (4, 3), "b": (2, 2), "c": (3, 5)}  # matrices, which Muon needs
SCHEDULE = fnopt.warmup_cosine(peak=0.1, warmup=2, total=10)
MOMENTUM = SGD(0.1, momentum=0.9)
RATE = torch.tensor(0.1, dtype=torch.float64)
LABELS = {"a": "x", "b": "y", "c": "x"}
VARIANTS = {
    "SGD": [SGD(SCHEDULE, momentum=0.9, dampening=0.5, weight_decay=0.1, decoupled_weight_decay=True), MOMENTUM],
    "AdamW": [AdamW(amsgrad=True, maximize=True), AdamW(SCHEDULE, betas=(RATE, 0.99))],
    "Adam": [fnopt.Adam(RATE, weight_decay=0.1)],
    "Lion": [fnopt.Lion(SCHEDULE, weight_decay=0.1)],
    "RMSprop": [fnopt.RMSprop(momentum=0.9, centered=True, weight_decay=0.1)],
    "Adagrad": [fnopt.Adagrad(RATE, lr_decay=0.1, initial_accumulator_value=0.1)],
    "Adafactor": [fnopt.Adafactor(weight_decay=0.1, maximize=True)],
    "Muon": [fnopt.Muon(SCHEDULE, weight_decay=0.5, nesterov=False)],
    "ScheduleFree": [fnopt.ScheduleFree(SGD(0.1)), fnopt.ScheduleFree(AdamW(SCHEDULE, betas=(0.0, 0.9)), momentum=0.5)],
    "ema": [ema(SGD(0.1), 0.3), ema(chain(ClipNorm(1.0), AdamW(0.1)), SCHEDULE), ema(chain(AddNoise(0.1), SGD(0.1)))],
    "lookahead": [lookahead(AdamW(), k=2), lookahead(MOMENTUM, k=1, alpha=RATE)],
    "partition": [
        partition({"x": MOMENTUM, "y": AdamW(SCHEDULE)}, LABELS),
        chain(ClipNorm(1.0), partition({"x": SGD(), "y": ema(AdamW())}, LABELS)),
        partition({"x": SGD(), "idle": AdamW(), "y": chain(ClipNorm(0.1), MOMENTUM)}, LABELS),
    ],
    "freeze": [freeze(MOMENTUM, "a", "c"), freeze(chain(ClipNorm(1.0), AdamW(0.1)), "b")],
    "chain": [
        chain(ClipNorm(1.0), fnopt.ClipValue(0.5), MOMENTUM),
        chain(ScaleByAdam(), ClipNorm(1.0), ScaleByAdam(betas=(0.5, 0.5)), SGD(0.1)),
        chain(AddNoise(0.1, seed=1), AdamW(0.1)),
        chain(fnopt.Centralize(), fnopt.AdaptiveClip(0.1), fnopt.ClipParamNorm(1.0), fnopt.NanToZero(), SGD(0.1)),
        chain(SGD(0.1)),
    ],
}


def exported():
    """The names of all exported rules: classes that make an optimizer without a word more."""
    found = []
    for name in fnopt.__all__:
        value = getattr(fnopt, name)
        kind = isinstance(value, type) and hasattr(value, "init_state") and not getattr(value, "_is_protocol", False)
        if kind and hasattr(value, "update") and list(inspect.signature(value.update).parameters)[1] == "grads":
            found.append(name)  # else a loss scale, say, or a schedule with a state
    return found


def every():
    """Each exported optimizer as it is made by default, where it can be, and all variants."""
    defaults = []
    for name in exported():
        needed = [p for p in inspect.signature(getattr(fnopt, name)).parameters.values() if p.default is p.empty]
        if not needed:
            defaults.append(getattr(fnopt, name)())
    return defaults + [optimizer for variants in VARIANTS.values() for optimizer in variants]


def module(names=tuple(SHAPES)):
    """A module with a parameter of each shape, of unlike sizes."""
    return nn.ParameterDict({name: 3 * draw(SHAPES[name], 1, place) for place, name in enumerate(names)})


def gradients(time, names=tuple(SHAPES)):
    """Gradients that clipping changes, by name."""
    return {name: 2 * draw(SHAPES[name], 2, ord(name), time) for name in names}


def run(optimizer, model, times):
    """The steps of these times."""
    for time in times:
        for name, grad in gradients(time, list(model)).items():
            model[name].grad = grad
        optimizer.step()


def by_hand(pure, model, steps):
    """What the pure functions make of the same weights and gradients: params and state."""
    params = {name: param.detach().clone() for name, param in model.items()}
    state = pure.init_state(params)
    for time in range(steps):
        params, state = pure.update(gradients(time, list(model)), state, params)
    return params, state


def mismatch(model, params):
    """The first parameter that has other bits."""
    return next((name for name, param in model.items() if not torch.equal(param, params[name])), None)
