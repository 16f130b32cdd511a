"""What the laws are run on: all that steps, transforms or grades and that fnopt exports, found by introspection.

A new export is found by itself. If it can be made without arguments nothing is to be done; else, or to have more
variants tried, it gets an entry in VARIANTS: a list of `Thing`s, each with how its params are drawn.
"""

import inspect
import types
import typing
from functools import partial

import attrs
import torch
import torch.distributed as dist

import fnopt
from fnopt import SGD, AdamW, ClipNorm, ClipValue, chain, partition

TENSOR = torch.tensor(0.1)
SCHEDULE = fnopt.warmup_cosine(peak=0.1, warmup=2, total=10)
AB = {"names": ("a", "b", "c")}
COMPLEX = {"dtypes": (torch.complex64, torch.complex128)}
MATRICES = {"shapes": ((1, 1), (2, 3), (3, 1), (0, 2))}
MOMENTUM = SGD(0.1, momentum=0.9)
ROWS = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 0.25], [-0.5, 3.0, 1.0], [0.0, 1.0, -1.0]])
TOKENS = torch.tensor([[0, 3, 1], [4, 4, 2]])


def squared(model, batch):
    """A loss with an aux: the sum of squares over rows."""
    y = model(batch)
    return y.square().sum(), len(batch), {"size": y.detach().abs().sum()}


def slope(params, batch):
    """A pure loss."""
    return ((params["w"] * batch).sum(1) - params["b"]).square().sum(), len(batch)


def layers(*extra):
    """A small module, with others between its layers; the same weights on every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), *extra, torch.nn.Tanh(), torch.nn.Linear(4, 2))


def words():
    """A module of integers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 2))


def graded(wrap, *extra, model=layers, batch=ROWS):
    """A thing made of the GradFn of a module, and how it is called."""
    module = model(*extra)
    return Thing(wrap(fnopt.value_and_grad(module, squared)), {"model": module, "batch": batch})


def stepped(optimizer, wrap=lambda grad_fn: grad_fn, *extra, model=layers, batch=ROWS, loss_scale=None):
    """A step of a module, and how it is called."""
    return graded(
        lambda grad_fn: fnopt.make_step(wrap(grad_fn), optimizer, loss_scale=loss_scale),
        *extra, model=model, batch=batch,
    )  # fmt: skip


PAIR = [ROWS, ROWS[:3]]
IN_BFLOAT16 = "its matrix products are in bfloat16, which vmap rounds in another order"


@attrs.frozen
class Thing:
    """One thing to run laws on, how its params are drawn, and which laws it is excused from, with the reason."""

    made: typing.Any
    drawn: dict = attrs.field(factory=dict)
    excused: dict = attrs.field(factory=dict)


@fnopt.record
class InAGroup:
    """all_reduce in a process group of this process alone, which is there during the call only."""

    grad_fn: fnopt.GradFn

    def __call__(self, state, batch):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            return fnopt.all_reduce(self.grad_fn)(state, batch)
        finally:
            dist.destroy_process_group()


VARIANTS = {
    "SGD": lambda: [
        Thing(SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1)),
        Thing(SGD(SCHEDULE, momentum=0.9, dampening=0.5, weight_decay=0.1, decoupled_weight_decay=True)),
        Thing(SGD(TENSOR, momentum=torch.tensor(0.0), maximize=True)),
        Thing(SGD(0.1, momentum=0.9, weight_decay=0.1), COMPLEX),
    ],
    "AdamW": lambda: [
        Thing(AdamW(amsgrad=True, maximize=True)),
        Thing(AdamW(lr=SCHEDULE, betas=(TENSOR, 0.99), eps=TENSOR)),
        Thing(AdamW(lr=0.1, weight_decay=0.5, amsgrad=True), COMPLEX),
    ],
    "Adam": lambda: [Thing(fnopt.Adam(lr=TENSOR, weight_decay=0.1, maximize=True))],
    "Lion": lambda: [Thing(fnopt.Lion(SCHEDULE, weight_decay=0.1, maximize=True))],
    "RMSprop": lambda: [Thing(fnopt.RMSprop(momentum=0.9, centered=True, weight_decay=0.1))],
    "Adagrad": lambda: [Thing(fnopt.Adagrad(TENSOR, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.1))],
    "Adafactor": lambda: [Thing(fnopt.Adafactor(weight_decay=0.1, maximize=True), MATRICES)],
    "Muon": lambda: [
        Thing(
            fnopt.Muon(weight_decay=0.5, nesterov=nesterov),
            MATRICES,
            {"law_vmap_is_loop": IN_BFLOAT16, "law_members_have_their_own_numbers": IN_BFLOAT16},
        )
        for nesterov in (True, False)
    ],
    "ScheduleFree": lambda: [
        Thing(fnopt.ScheduleFree(SGD(0.1, weight_decay=0.1))),
        Thing(fnopt.ScheduleFree(AdamW(SCHEDULE, betas=(0.0, 0.9)), momentum=0.5)),
    ],
    "lookahead": lambda: [Thing(fnopt.lookahead(AdamW(), k=2)), Thing(fnopt.lookahead(MOMENTUM, k=1, alpha=TENSOR))],
    "ema": lambda: [
        Thing(fnopt.ema(SGD(0.1), 0.3)),
        Thing(fnopt.ema(chain(ClipNorm(1.0), AdamW(0.1)), SCHEDULE)),
        Thing(fnopt.ema(MOMENTUM, 0.9), COMPLEX),
    ],
    "partition": lambda: [
        Thing(partition({"x": MOMENTUM, "y": AdamW(SCHEDULE)}, {"a": "x", "b": "y", "c": "x"}), AB),
        Thing(chain(ClipNorm(1.0), partition({"x": SGD(), "y": AdamW()}, {"a": "x", "b": "y", "c": "x"})), AB),
        Thing(partition({"x": SGD(), "idle": AdamW()}, {"a": "x", "b": "x", "c": "x"}), AB),
    ],
    "freeze": lambda: [
        Thing(fnopt.freeze(MOMENTUM, "a", "[bc]"), AB),
        Thing(fnopt.freeze(chain(ClipNorm(1.0), AdamW(0.1)), "b"), AB),
    ],
    "chain": lambda: [
        Thing(chain()),
        Thing(chain(ClipNorm(1.0), ClipValue(0.5), ClipNorm(0.7))),
        Thing(chain(ClipValue(1.0), AdamW(0.1))),
        Thing(chain(ClipNorm(1.0), ClipValue(0.5), MOMENTUM)),
    ],
    "ClipNorm": lambda: [
        Thing(ClipNorm(1.0)),
        Thing(ClipNorm(TENSOR)),
        Thing(ClipNorm(fnopt.linear(3.0, 1.0, steps=2))),
        Thing(ClipNorm(1.0), COMPLEX),
    ],
    "ClipValue": lambda: [Thing(ClipValue(0.3)), Thing(ClipValue(TENSOR)), Thing(ClipValue(1.0), COMPLEX)],
    "ClipParamNorm": lambda: [Thing(fnopt.ClipParamNorm(1.0)), Thing(fnopt.ClipParamNorm(1.0), COMPLEX)],
    "AddNoise": lambda: [Thing(fnopt.AddNoise(0.1)), Thing(fnopt.AddNoise(SCHEDULE, seed=1), COMPLEX)],
    "Tap": lambda: [Thing(fnopt.Tap("norm"))],
    "value_and_grad": lambda: [
        Thing(fnopt.value_and_grad(slope), {"model": {"w": ROWS[0], "b": TENSOR}, "batch": ROWS}),
        graded(lambda grad_fn: grad_fn),
        graded(lambda grad_fn: grad_fn, torch.nn.BatchNorm1d(4)),
        graded(lambda grad_fn: grad_fn, torch.nn.Dropout(0.5)),
        graded(lambda grad_fn: grad_fn, model=words, batch=TOKENS),
    ],
    "accumulate": lambda: [
        graded(fnopt.accumulate, batch=PAIR),
        graded(fnopt.accumulate, torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4), batch=PAIR),
        graded(lambda grad_fn: fnopt.accumulate(grad_fn, drop_nonfinite=True), batch=PAIR),
    ],
    "all_reduce": lambda: [graded(lambda grad_fn: InAGroup(fnopt.accumulate(grad_fn)), batch=PAIR)],
    "autocast": lambda: [graded(lambda grad_fn: fnopt.autocast(grad_fn, torch.bfloat16))],
    "sam": lambda: [
        graded(fnopt.sam),
        graded(lambda grad_fn: fnopt.sam(fnopt.accumulate(grad_fn), TENSOR), batch=PAIR),
    ],
    "per_example_clip": lambda: [
        graded(lambda grad_fn: fnopt.per_example_clip(grad_fn, 1.0, chunk_size=3)),
        graded(lambda grad_fn: fnopt.accumulate(fnopt.per_example_clip(grad_fn, SCHEDULE)), batch=PAIR),
    ],
    "ensemble": lambda: [
        graded(lambda grad_fn: fnopt.ensemble(fnopt.make_step(grad_fn, AdamW(torch.tensor([0.1, 0.2]))), 2)),
        graded(
            lambda grad_fn: fnopt.ensemble(fnopt.make_step(fnopt.accumulate(grad_fn), MOMENTUM), 3),
            torch.nn.BatchNorm1d(4),
            batch=PAIR,
        ),
    ],
    "compiled": lambda: [
        graded(lambda grad_fn: fnopt.compiled(fnopt.make_step(grad_fn, fnopt.ema(AdamW(SCHEDULE), 0.9)), donate=False)),
        graded(lambda grad_fn: fnopt.compiled(fnopt.make_step(grad_fn, chain(ClipNorm(1.0), MOMENTUM)))),
    ],
    "make_step": lambda: [
        stepped(MOMENTUM),
        stepped(AdamW(SCHEDULE), fnopt.accumulate, torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4), batch=PAIR),
        stepped(
            chain(ClipNorm(1.0), fnopt.ema(AdamW(SCHEDULE), 0.9)),
            lambda grad_fn: fnopt.accumulate(fnopt.autocast(grad_fn, torch.bfloat16)),
            batch=PAIR,
            loss_scale=fnopt.DynamicLossScale(init_scale=256.0, growth_interval=1),
        ),
        stepped(fnopt.ScheduleFree(SGD(0.1)), fnopt.sam, model=words, batch=TOKENS),
    ],
    "constant": lambda: [Thing(fnopt.constant(0.1)), Thing(fnopt.constant(TENSOR))],
    "linear": lambda: [Thing(fnopt.linear(0.0, TENSOR, steps=10)), Thing(fnopt.linear(1.0, 0.0, steps=7))],
    "cosine": lambda: [Thing(fnopt.cosine(1.0, steps=10)), Thing(fnopt.cosine(TENSOR, steps=3, end=1.0))],
    "step_decay": lambda: [Thing(fnopt.step_decay(0.1, every=3)), Thing(fnopt.step_decay(0.1, every=2, factor=0.0))],
    "multistep_decay": lambda: [Thing(fnopt.multistep_decay(0.1, milestones=[3, 8]))],
    "polynomial": lambda: [Thing(fnopt.polynomial(1.0, TENSOR, steps=7, power=2.0))],
    "exponential": lambda: [Thing(fnopt.exponential(0.1, gamma=0.9)), Thing(fnopt.exponential(TENSOR, gamma=0.0))],
    "warmup_stable_decay": lambda: [Thing(fnopt.warmup_stable_decay(TENSOR, 3, 4, 5, shape="sqrt"))],
    "inverse_sqrt": lambda: [Thing(fnopt.inverse_sqrt(TENSOR, warmup=5))],
    "one_cycle": lambda: [
        Thing(fnopt.one_cycle(0.1, total=12)),
        Thing(fnopt.one_cycle(TENSOR, total=12, warmup=0.4, three_phase=True, anneal="linear")),
    ],
    "one_cycle_momentum": lambda: [Thing(fnopt.one_cycle_momentum(total=12))],
    "cosine_restarts": lambda: [Thing(fnopt.cosine_restarts(TENSOR, period=3, multiply=2, end=0.01))],
    "join": lambda: [Thing(fnopt.join([SCHEDULE, fnopt.step_decay(0.1, every=2)], boundaries=[5]))],
    "warmup_cosine": lambda: [Thing(SCHEDULE), Thing(fnopt.warmup_cosine(peak=TENSOR, warmup=0, total=5, end=0.01))],
}


# Not in float16, where an eps of 1e-8 is 0, and torch divides 0 by it.
WIDE = {"names": ("a", "b"), "dtypes": (torch.float32, torch.bfloat16, torch.float64)}
TORCH = [
    Thing(torch.optim.SGD, WIDE),
    Thing(partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1), WIDE),
    Thing(torch.optim.Adam, WIDE),
    Thing(partial(torch.optim.AdamW, lr=0.1, amsgrad=True), WIDE),
    Thing(partial(torch.optim.RMSprop, momentum=0.9), WIDE),
    Thing(partial(torch.optim.Adagrad, weight_decay=0.1), WIDE),
]


def is_kind(value):
    """Is this a class of optimizers, transforms, schedules, GradFns or steps (or one of the words for them)?"""
    if not isinstance(value, type):
        return False
    if value is fnopt.GradFn or (hasattr(value, "init_state") and hasattr(value, "step")):
        return True
    step, transform = getattr(value, "update", None), getattr(value, "transform", None)
    if hasattr(value, "init_state") and (step or transform):
        return list(inspect.signature(step or transform).parameters)[1] == "grads"
    if not attrs.has(value) and value is not fnopt.Schedule:
        return False
    return "__call__" in vars(value) and len(inspect.signature(vars(value)["__call__"]).parameters) == 2


def builds_a_kind(value):
    """Is this a function that says it returns one?"""
    if not isinstance(value, types.FunctionType):
        return False
    return any(returns_a_kind(function) for function in typing.get_overloads(value) or [value])


def returns_a_kind(function):
    """Does its annotation say that it returns one, or one of several?"""
    returned = inspect.get_annotations(function).get("return")
    returned = eval(returned, function.__globals__) if isinstance(returned, str) else returned
    union = isinstance(returned, types.UnionType) or typing.get_origin(returned) is typing.Union
    return any(is_kind(typing.get_origin(one) or one) for one in (typing.get_args(returned) if union else [returned]))


def exports():
    """All public names of fnopt that are, or make, an optimizer, a transform or a schedule."""
    return [
        name
        for name, value in vars(fnopt).items()
        if not name.startswith("_")
        and not getattr(value, "_is_protocol", False)
        and (is_kind(value) or builds_a_kind(value))
    ]


def things(name):
    """What the laws are run on for one export: itself, made without arguments, and its variants."""
    found = VARIANTS[name]() if name in VARIANTS else []
    made = getattr(fnopt, name)
    try:
        default = made() if isinstance(made, type) and name != "Muon" else None
    except TypeError:
        default = None
    return ([] if default is None else [Thing(default)]) + found
