"""Classes, signatures and what a constructor refuses: the same as with torch.optim, and `compile` besides."""

import inspect

import pytest
import torch
from contract_cases import SEVEN, THREE, agree, attempt, draw, fill, look, parameters, start, train, with_warnings
from torch import nn

from fnopt import optim as fnopt_optim

pytestmark = pytest.mark.usefixtures("one_thread")
NAN_CASE = ("SGD", "{'lr': nan}")
PAIR = torch.tensor([0.1, 0.2])
COMMON = [
    {"lr": -1.0},
    {"lr": float("nan")},
    {"lr": "fast"},
    {"lr": None},
    {"lr": PAIR},
    {"weight_decay": -1},
    {"no": 1},
]
HINTS = [{"fused": True, "foreach": True}, {"fused": True, "differentiable": True}]
ADAM = [
    *HINTS,
    {"betas": (1.0, 0.9)},
    {"betas": (0.9, -0.1)},
    {"betas": 0.9},
    {"betas": (0.9,)},
    {"betas": (0.9, torch.tensor(0.9))},
    {"betas": (0, 0)},
    {"betas": (PAIR, PAIR)},
    {"betas": (torch.tensor(0.9), torch.tensor(0.9)), "foreach": True},
    {"eps": -1e-8},
    {"lr": torch.tensor(0.1), "foreach": True},
    {"lr": torch.tensor(-0.1)},
]
BAD = {
    "AdamW": [*ADAM, {"decoupled_weight_decay": False}],
    "Adam": ADAM,
    "SGD": [*HINTS, {"momentum": -0.1}, {"nesterov": True}, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}],
    "RMSprop": [{"alpha": -0.1}, {"momentum": -0.1}, {"eps": -1.0}, {"fused": True}],
    "Adagrad": [*HINTS, {"lr_decay": -0.1}, {"initial_accumulator_value": -0.1}, {"eps": -1.0}],
    "Adafactor": [{"beta2_decay": 0.1}, {"eps": (-1.0, 0.1)}, {"eps": (None, -0.1)}, {"d": 0.5}, {"eps": 0.1}],
    "Muon": [{"momentum": -0.1}, {"adjust_lr_fn": "mine"}, {"foreach": True}],
}
# SGD alone takes an lr of nan in torch, by the way it compares; ours refuses it like the others
BAD_CASES = [(name, flags) for name in SEVEN for flags in [*COMMON, *BAD[name]] if (name, str(flags)) != NAN_CASE]


def one():
    """A parameter that every class takes."""
    return nn.Parameter(draw((2, 2), 1))


PARAMS = {
    "a tensor": one,
    "nothing": list,
    "an exhausted iterator": lambda: iter(()),
    "a set": lambda: {one()},
    "a set in a group": lambda: [{"params": {one()}}],
    "a tensor in a group": lambda: [{"params": one()}],
    "an empty group": lambda: [{"params": []}],
    "a group without params": lambda: [{"lr": 0.1}],
    "a dict": lambda: {"w": one()},
    "values of a dict": {"w": one()}.values,
    "numbers": lambda: [1.0, 2.0],
    "None": lambda: None,
    "a list with None": lambda: [one(), None],
    "a tensor without grad": lambda: [torch.ones(2, 2)],
    "no leaf": lambda: [one() * 2],
    "one name missing": lambda: [("w", one()), one()],
    "names in one group": lambda: [{"params": [("w", one())]}, {"params": [one()]}],
    "a group after a tensor": lambda: [one(), {"params": [one()]}],
    "integers": lambda: [torch.ones(2, 2, dtype=torch.int64)],
    "a module": lambda: nn.Linear(2, 2),
    "a bound method": lambda: nn.Linear(2, 2).parameters,
    "a vector": lambda: [nn.Parameter(draw((3,), 1))],
}


@pytest.mark.parametrize("name", SEVEN)
def test_the_classes(name):
    """Each class is a child of torch's of its name and of TorchOptimizer, and its instances are torch optimizers."""
    cls, torch_class = getattr(fnopt_optim, name), getattr(torch.optim, name)
    assert issubclass(cls, torch_class)
    assert issubclass(cls, fnopt_optim.TorchOptimizer)
    assert issubclass(fnopt_optim.TorchOptimizer, torch.optim.Optimizer)
    assert cls is not torch_class
    assert (cls.__name__, cls.__qualname__) == (name, name)
    assert not hasattr(cls, "__slots__")
    assert isinstance(start(fnopt_optim, name)[0], torch_class)


@pytest.mark.parametrize("name", SEVEN)
def test_signatures(name):
    """A constructor takes torch's arguments, in order, with torch's defaults, and then the keyword `compile`."""
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    ours = dict(inspect.signature(getattr(fnopt_optim, name)).parameters)
    compiles = ours.pop("compile")
    assert (compiles.kind, compiles.default) == (inspect.Parameter.KEYWORD_ONLY, False)
    as_text = [[(key, value.kind, repr(value.default)) for key, value in side.items()] for side in (ours, theirs)]
    assert as_text[0] == as_text[1]


@pytest.mark.parametrize(
    "method", ["step", "zero_grad", "add_param_group", "state_dict", "load_state_dict", "__repr__"]
)
def test_signatures_of_methods(method):
    """Methods take what torch's take (GradScaler and Accelerate look at the names), and by keyword perhaps more."""
    for name in SEVEN:
        sides = [inspect.signature(getattr(getattr(optim, name), method)) for optim in (torch.optim, fnopt_optim)]
        theirs, ours = (list(side.parameters.values()) for side in sides)
        assert [(one.name, one.kind) for one in ours[: len(theirs)]] == [(one.name, one.kind) for one in theirs]
        assert all(one.kind is one.KEYWORD_ONLY and one.default is not one.empty for one in ours[len(theirs) :])


def test_everything_else_of_the_module():
    """All that torch.optim has is there: its other classes, lr_scheduler and swa_utils, the very same objects."""
    for name, value in vars(torch.optim).items():
        if name.startswith("_"):
            continue
        found = getattr(fnopt_optim, name)
        assert (found is value) == (name not in SEVEN), name
    starred = getattr(fnopt_optim, "__all__", vars(fnopt_optim))  # what `from fnopt.optim import *` gives
    assert {*torch.optim.__all__, "TorchOptimizer"} <= set(starred)


def test_lbfgs_is_there():
    """A script with an optimizer that is torch's own runs on."""

    def script(optim):
        param = one()
        opt = optim.LBFGS([param], max_iter=2)

        def closure():
            opt.zero_grad()
            loss = (param**2).sum()
            loss.backward()
            return loss

        return opt.step(closure), param.detach()

    agree(script)


@pytest.mark.parametrize(("name", "flags"), BAD_CASES)
def test_bad_arguments(name, flags):
    """A bad argument gets torch's type of error and torch's text; what torch takes (with a warning) is taken."""
    agree(lambda optim: with_warnings(lambda: attempt(lambda: repr(getattr(optim, name)(parameters(name), **flags)))))


@pytest.mark.parametrize("name", SEVEN)
def test_no_params_and_too_many_arguments(name):
    """A call without parameters, or with more positional arguments than there are, is Python's own TypeError."""

    def script(optim):
        cls = getattr(optim, name)
        return attempt(cls), attempt(lambda: cls(*[parameters(name)] * 20)).type, attempt(lambda: cls(None))

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_positional_arguments(name):
    """Arguments given by position mean what they mean in torch."""
    given = {"AdamW": (0.1, (0.5, 0.6), 0.1, 0.3, True), "SGD": (0.1, 0.5, 0.0, 0.3, True), "Muon": (0.1, 0.2, 0.3)}

    def script(optim):
        params = parameters(name)
        opt = getattr(optim, name)(params, *given.get(name, (0.1,)))
        train(opt, params, range(2))
        return look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
@pytest.mark.parametrize("kind", PARAMS)
def test_params_of_every_kind(name, kind):
    """What is no list of parameters gets torch's error; what torch takes is taken, and repr is the same."""
    agree(lambda optim: with_warnings(lambda: attempt(lambda: repr(getattr(optim, name)(PARAMS[kind]())))))


@pytest.mark.parametrize("name", SEVEN)
def test_groups_that_cannot_be_added(name):
    """add_param_group refuses what torch refuses, with its text, and the groups are as before."""

    def script(optim):
        opt, params = start(optim, name)
        bad = [
            {"params": [params[0]]},
            {"params": one() * 2},
            {"params": {one()}},
            {"params": [("w", one())]},
            {"params": [1]},
            [one()],
            {},
        ]
        errors = [attempt(lambda group=group: opt.add_param_group(group)) for group in bad]
        return errors, look(opt, params)

    errors, _ = agree(script)
    assert all(hasattr(error, "type") for error in errors)


@pytest.mark.parametrize("name", THREE)
@pytest.mark.parametrize("flags", [{"foreach": True}, {"foreach": False}, {"fused": False}, {"fused": True}])
def test_speed_flags_are_hints(name, flags):
    """foreach and fused are stored and shown like torch's, and the bits are those of torch's plain loop."""
    plain, plain_params = start(torch.optim, name, {"foreach": False})
    opt, params = start(fnopt_optim, name, flags)
    hinted = start(torch.optim, name, flags)[0]
    train(plain, plain_params, range(4))
    train(opt, params, range(4))
    assert all(torch.equal(got, expected) for got, expected in zip(params, plain_params, strict=True))
    assert repr(opt) == repr(hinted)
    assert [list(group) for group in opt.param_groups] == [list(group) for group in hinted.param_groups]


@pytest.mark.parametrize("name", ["AdamW", "Adam", "RMSprop"])
def test_capturable_on_the_cpu(name):
    """capturable=True on the CPU is torch's AssertionError at the step, and after it the weights are as before."""

    def script(optim):
        opt, params = start(optim, name, {"capturable": True})
        fill(params, 0)
        error = attempt(opt.step)
        return error, [param.detach().clone() for param in params]

    assert agree(script)[0].type is AssertionError


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "Adagrad"])
def test_fused_wants_floating_point(name):
    """fused=True with a complex parameter is torch's RuntimeError, text included."""

    def script(optim):
        param = nn.Parameter(torch.complex(draw((2,), 1), draw((2,), 2)))
        opt = getattr(optim, name)([param], fused=True)
        param.grad = torch.ones_like(param)
        return attempt(opt.step)

    assert "floating point" in agree(script).text
