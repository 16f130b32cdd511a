"""TorchOptimizer: any pure optimizer over a module is the pure functions, run by hand."""

from typing import ClassVar

import pytest
import torch
from pure_cases import LABELS, MOMENTUM, VARIANTS, by_hand, every, exported, gradients, mismatch, module, run
from torch import nn

import fnopt
from fnopt import SGD, AdamW, AddNoise, ClipNorm, ScaleByAdam, chain, ema, freeze, partition
from fnopt.errors import FnoptError, StructureError, UsageError
from fnopt.optim import TorchOptimizer

pytestmark = pytest.mark.usefixtures("one_thread")
EVERY = every()


def over(pure, model=None):
    """The adapter over a module, and the module."""
    model = module() if model is None else model
    return TorchOptimizer(model.named_parameters(), pure), model


def test_every_export_is_tested():
    """Each exported class of optimizers, and each function that makes one, has variants here."""
    makers = {"ema", "lookahead", "partition", "freeze", "chain"}
    assert set(exported()) | makers == VARIANTS.keys()


@pytest.mark.parametrize("place", range(len(EVERY)))
def test_steps_are_the_pure_functions(place):
    """Five steps give the bits of five updates by hand."""
    optimizer, model = over(EVERY[place])
    params, _ = by_hand(EVERY[place], model, 5)
    before = {name: param.detach().clone() for name, param in model.items()}
    run(optimizer, model, range(5))
    assert mismatch(model, params) is None
    assert mismatch(model, before) is not None


@pytest.mark.parametrize("kind", [fnopt.Adam, AdamW, fnopt.RMSprop, fnopt.Adagrad, SGD])
def test_a_learning_rate_in_float32(kind):
    """A float32 tensor for lr is computed with in float32, as torch does, where the pure functions do it in float64.

    So the coefficients of the update are 2 u apart at most, and the products and sums with them 2 u more.
    """
    optimizer, model = over(kind(torch.tensor(0.1)))
    before = {name: param.detach().clone() for name, param in model.items()}
    params, _ = by_hand(kind(torch.tensor(0.1)), model, 1)
    run(optimizer, model, range(1))
    for name, param in model.items():
        size = torch.maximum(before[name].abs(), param.abs()) + (param - before[name]).abs()
        assert ((param - params[name]).abs() <= 4 * 2.0**-24 * size).all()


@fnopt.record
class Decaying:
    """A rule of somebody's own: a rate that falls with the root of time, computed in float64 or float32."""

    scope: ClassVar[str] = "element"
    wide: bool = True

    def init_state(self, params):
        return {"step": torch.zeros((), dtype=torch.int64)}

    def update(self, grads, state, params):
        rate = 0.1 / (state["step"].to(torch.float64 if self.wide else torch.float32) + 3) ** 0.5
        return {name: p - rate.to(p.dtype) * grads[name] for name, p in params.items()}, {"step": state["step"] + 1}


@fnopt.record
class Typed(Decaying):
    """The same with a field that is neither a number nor a flag."""

    kind: torch.dtype = torch.float32


@pytest.mark.parametrize("rule", [Decaying(), Decaying(wide=False), Typed()])
def test_a_rule_of_ones_own(rule):
    """A record with two methods is updated as by hand, to the bit, whatever its fields and the dtype of its numbers."""
    optimizer, model = over(rule)
    params, _ = by_hand(rule, model, 20)
    run(optimizer, model, range(20))
    assert mismatch(model, params) is None


def test_other_numbers_are_noticed():
    """Negative control: with another learning rate the same comparison finds a mismatch."""
    optimizer, model = over(MOMENTUM)
    params, _ = by_hand(SGD(0.100001, momentum=0.9), model, 5)
    run(optimizer, model, range(5))
    assert mismatch(model, params) is not None


@pytest.mark.parametrize("transform", [ClipNorm(1.0), chain(ClipNorm(1.0), AddNoise(0.1)), ScaleByAdam()])
@pytest.mark.parametrize("count", [2, 3])
def test_transforms_see_all_groups(transform, count):
    """A transform sees the gradients of all groups at once: the same bits in any number of groups."""
    pure = chain(transform, SGD(0.1))
    _, model = over(pure)
    params, _ = by_hand(pure, model, 4)
    named = list(model.named_parameters())
    groups = [{"params": named[: 4 - count]}, *({"params": [pair]} for pair in named[4 - count :])]
    optimizer = TorchOptimizer(groups, pure)
    assert len(optimizer.param_groups) == count
    run(optimizer, model, range(4))
    assert mismatch(model, params) is None


def test_clipping_each_group_would_differ():
    """Negative control: clipping the gradients of each group alone gives other bits."""
    clipped = chain(ClipNorm(1.0), SGD(0.1))
    model, (one, two) = module(), (["a"], ["b", "c"])
    params, _ = by_hand(clipped, model, 1)
    apart = {}
    for names in (one, two):
        part = {name: model[name].detach().clone() for name in names}
        grads = {name: gradients(0)[name] for name in names}
        apart.update(clipped.update(grads, clipped.init_state(part), part)[0])
    assert any(not torch.equal(apart[name], params[name]) for name in params)


@pytest.mark.parametrize("rule", [chain(ClipNorm(1.0), MOMENTUM), ema(chain(ScaleByAdam(), SGD(0.1)), 0.9), AdamW(0.1)])
def test_groups_override_hyperparameters(rule):
    """A group's own lr is used for its parameters, whatever wraps the rule: as a partition of two such rules."""
    model = module()
    named = list(model.named_parameters())
    optimizer = TorchOptimizer([{"params": named[:1], "lr": 0.5}, {"params": named[1:]}], rule)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1]
    pure, _, params = optimizer.functional()
    expected, _ = by_hand(pure, model, 3)
    run(optimizer, model, range(3))
    assert mismatch(model, expected) is None
    assert params.keys() == expected.keys()
    other, plain = over(rule)
    run(other, plain, range(3))
    assert mismatch(plain, expected) == "a"


def test_a_new_lr_by_hand_is_used():
    """What a client writes into a group is used in the next step."""
    optimizer, model = over(SGD(0.1))
    before = {name: param.detach().clone() for name, param in model.items()}
    optimizer.param_groups[0]["lr"] = 0.25
    run(optimizer, model, range(1))
    assert mismatch(model, {name: p - 0.25 * gradients(0)[name] for name, p in before.items()}) is None


def test_a_partition_makes_a_group_per_label():
    """Each label is a group with its name and the numbers of its rule; one without parameters is none."""
    optimizer, _ = over(VARIANTS["partition"][2])
    assert [(group["label"], group["param_names"]) for group in optimizer.param_groups] == [
        ("x", ["a", "c"]),
        ("y", ["b"]),
    ]
    assert [(group["lr"], group["momentum"]) for group in optimizer.param_groups] == [(1e-3, 0.0), (0.1, 0.9)]
    text = optimizer.describe()
    assert text.index("x: SGD(lr=0.001") < text.index("    a  [4, 3]") < text.index("y: SGD(lr=0.1")
    optimizer.param_groups[1]["lr"] = 0.5
    assert "y: SGD(lr=0.5" in optimizer.describe()


def test_frozen_parameters_stay():
    """What freeze names is in no group and keeps its bits, whatever its gradient; a glob that names nothing raises."""
    optimizer, model = over(freeze(AdamW(0.1, weight_decay=0.5), "b"))
    before = model["b"].detach().clone()
    run(optimizer, model, range(3))
    assert torch.equal(model["b"], before)
    assert [group["param_names"] for group in optimizer.param_groups] == [["a", "c"]]
    assert optimizer.state.keys() == {model["a"], model["c"]}
    with pytest.raises(StructureError, match="bb"):
        over(freeze(SGD(0.1), "bb"))


def loads(value, pure=None):
    return TorchOptimizer(value, pure or SGD(0.1))


MISTAKES = {
    "a stateful optimizer": (lambda m: loads(m.parameters(), torch.optim.SGD(m.parameters(), 0.1)), "stateful SGD"),
    "one of ours": (lambda m: loads(m.parameters(), fnopt.optim.SGD(m.parameters(), 0.1)), "stateful SGD"),
    "a class": (lambda m: loads(m.parameters(), SGD), "got the class SGD"),
    "a transform": (lambda m: loads(m.parameters(), ClipNorm(1.0)), "ClipNorm"),
    "transforms alone": (lambda m: loads(m.parameters(), chain(ClipNorm(1.0))), "TorchOptimizer"),
    "no optimizer": (lambda m: loads(m.parameters(), 0.1), "0.1"),
    "partition, no names": (lambda m: loads(m.parameters(), VARIANTS["partition"][0]), "partition .*named_parameters"),
    "freeze, no names": (lambda m: loads(m.parameters(), freeze(SGD(), "a")), "freeze .*named_parameters"),
    "chained partition": (lambda m: loads(m.parameters(), VARIANTS["partition"][1]), "named_parameters"),
    "a partition of groups": (
        lambda m: loads([{"params": list(m.named_parameters())}], VARIANTS["partition"][0]),
        "one per label",
    ),
    "a label too few": (
        lambda m: loads(m.named_parameters(), partition({"x": SGD()}, {"a": "x", "b": "x"})),
        r"without a label \['c'\]",
    ),
    "a label too many": (
        lambda m: loads(m.named_parameters(), partition({"x": SGD(), "y": SGD()}, {**LABELS, "d": "x"})),
        r"without a parameter \['d'\]",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_usage_errors(mistake):
    """No pure optimizer, or no names to go by, is a UsageError with the fix; labels of others are a StructureError."""
    call, text = MISTAKES[mistake]
    with pytest.raises(FnoptError, match=text) as caught:
        call(module())
    assert isinstance(caught.value, StructureError if "a label" in mistake else UsageError)


def test_no_parameters():
    """No parameters are torch's ValueError, as for any optimizer."""
    for nothing in ([], nn.Identity().parameters(), nn.Identity().named_parameters()):
        with pytest.raises(ValueError, match="empty parameter list"):
            loads(nothing)
