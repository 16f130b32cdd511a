"""Names of parts within parts: in the table of `describe`, and of the learning rates that a step reports."""

import torch

from fnopt import SGD, AdamW, Centralize, chain, constant, describe, freeze, partition
from fnopt.rules.describe import leaf_rules, learning_rates

s = SGD(0.5)
params = {"a": torch.ones(1), "long": torch.ones(1)}


def test_labels_within_labels():
    """A part of a part has both labels, one that owns nothing is listed as such, and names are aligned."""
    inner = partition({"x": s, "y": s}, {"a": "x", "long": "x"})
    assert describe(partition({"out": inner, "idle": s}, {"a": "out", "long": "out"}), params).splitlines() == [
        f"out/x: {s!r}",
        "  2 tensors, 2 numbers",
        "    a     [1]  float32",
        "    long  [1]  float32",
        f"out/y: {s!r}",
        "  0 tensors, 0 numbers",
        f"idle: {s!r}",
        "  0 tensors, 0 numbers",
    ]


def test_one_rule_owns_all():
    """Where nothing has a label, the one rule stands under "all"."""
    assert describe(chain(Centralize(), s), params).splitlines()[0] == f"all: {s!r}"


def test_wrappers_without_a_label_add_none():
    """A chain or a freeze inside a part keeps the part's label; without any label the one rule has the empty one."""
    whole = chain(Centralize(), partition({"x": freeze(chain(s), "b")}, {"a": "x", "b": "x"}))
    assert leaf_rules(whole, ["a", "b"]) == [("x", s, ["a"])]
    assert leaf_rules(chain(freeze(s, "b")), ["a", "b"]) == [("", s, ["a"])]


def test_learning_rates_are_named_by_label():
    """`lr` is that of the first rule which has one; each rule with a label has its own, at the step asked for."""
    step = torch.tensor(3)
    labels = {"a": "none", "long": "slow"}
    whole = partition({"none": Still(), "slow": SGD(0.1), "fast": AdamW(lambda step: step * 2.0)}, labels)
    assert learning_rates(whole, step) == {"lr": 0.1, "lr/slow": 0.1, "lr/fast": torch.tensor(6.0)}
    assert learning_rates(SGD(constant(0.25)), step) == {"lr": 0.25}
    assert learning_rates(Still(), step) == {}


class Still:
    """An optimizer that has no lr."""

    def init_state(self, params):
        return {}

    def update(self, grads, state, params):
        return params, state
