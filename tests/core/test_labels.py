"""label and decay_labels: each parameter gets exactly one label, by rules that all do something."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fnopt import decay_labels, label, params_of
from fnopt.errors import StructureError, UsageError


class MyRMSNorm(nn.Module):
    """A normalization that torch does not know, with a gain of two dimensions."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, 4))


class Tied(nn.Module):
    """A language model in small: the output layer uses the weights of the embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = MyRMSNorm()
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embed.weight


def small():
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Conv1d(3, 4, 1))


def test_the_first_rule_that_matches_wins():
    """Rules are tried in order, in a mapping and in a list of pairs alike."""
    rules = [("0.bias", "one"), (1, "flat"), (nn.Conv1d, "conv"), (lambda name, p: p.numel() == 6, "six")]
    expected = {
        "0.weight": "six",
        "0.bias": "one",
        "1.weight": "flat",
        "1.bias": "flat",
        "2.weight": "conv",
        "2.bias": "flat",
    }
    assert label(small(), rules) == label(small(), dict(rules)) == expected
    assert list(label(small(), rules)) == list(params_of(small()))
    assert label(small(), [("*", "all")]) == dict.fromkeys(expected, "all")
    assert label(small(), [(nn.Module, "any owner")])["0.weight"] == "any owner"


def test_labels_of_a_dict_of_params():
    """Without a module the rules are asked about names and tensors; module types match nothing."""
    params = params_of(small())
    assert label(params, {2: "matrix", 3: "conv", "*": "rest"}) == label(small(), {2: "matrix", 3: "conv", "*": "rest"})
    with pytest.raises(StructureError, match="first match of no parameter"):
        label(params, {nn.Linear: "linear", "*": "rest"})


def test_every_parameter_needs_a_rule():
    """A parameter that nothing matches is an error with its name and the rule that catches the rest."""
    with pytest.raises(
        StructureError, match=r"label: no rule matches '1.weight'; end with \(\"\*\", …\) to catch the rest"
    ):
        label(small(), {"0.*": "a"})


@pytest.mark.parametrize("idle", ["3.*", 4, nn.Embedding, "0.weight", 2])
def test_every_rule_needs_a_parameter(idle):
    """A rule that is the first match of nothing, a typo or one that comes too late, is an error that shows it."""
    with pytest.raises(StructureError) as caught:
        label(small(), [("0.*", "first"), (1, "flat"), (nn.Conv1d, "conv"), (idle, "idle")])
    assert f"these rules are the first match of no parameter: [{idle!r}]; names are ['0.weight', " in str(caught.value)


def test_a_module_type_owns_what_it_holds_itself():
    """A container is no owner of its children's parameters: neither for a rule nor for the usual one."""

    class NormedBlock(nn.Sequential):
        pass

    model = NormedBlock(nn.Linear(2, 2))
    with pytest.raises(StructureError, match="first match of no parameter"):
        label(model, {nn.Sequential: "block", "*": "rest"})
    assert decay_labels(model) == {"0.weight": "decay", "0.bias": "no_decay"}


def test_a_rule_must_be_one_of_four_kinds():
    """A rule that is no glob, number, module type or predicate is refused."""
    with pytest.raises(
        UsageError, match=r"label: got the rule 2.5, expected a name glob, an int, a module type or a pred"
    ):
        label(small(), [(2.5, "x")])


@given(st.lists(st.sampled_from(["0.*", "*.weight", "*.bias", "1.*", "2.bias"]), max_size=5, unique=True))
def test_labels_are_those_of_the_first_glob(globs):
    """Whatever the order of the rules: each name once, labelled by the first that matches; an idle one is an error."""
    names = list(params_of(small()))
    matches = {
        "0.*": lambda n: n[0] == "0",
        "1.*": lambda n: n[0] == "1",
        "*.weight": lambda n: n.endswith("weight"),
        "*.bias": lambda n: n.endswith("bias"),
        "2.bias": lambda n: n == "2.bias",
        "*": lambda n: True,
    }
    rules = [*globs, "*"]
    first = {name: next(rule for rule in rules if matches[rule](name)) for name in names}
    if set(first.values()) == set(rules):
        assert label(small(), [(rule, rule) for rule in rules]) == first
    else:
        with pytest.raises(StructureError, match="first match of no parameter"):
            label(small(), [(rule, rule) for rule in rules])


def test_tied_weights_appear_once():
    """A tied parameter has one name, and rules for either of its owners match it."""
    names = ["embed.weight", "norm.gain", "head.bias"]
    assert list(label(Tied(), {"*": "all"})) == list(decay_labels(Tied())) == list(params_of(Tied())) == names
    for owner in (nn.Embedding, nn.Linear):
        assert label(Tied(), [(owner, "own"), ("*", "rest")])["embed.weight"] == "own"


def test_frozen_parameters_are_left_out():
    """A parameter that requires no grad is among the buffers and has no label; a rule for it alone is idle."""
    model = small()
    model[0].weight.requires_grad_(False)
    assert "0.weight" not in label(model, {"*": "all"})
    assert "0.weight" not in decay_labels(model)
    assert decay_labels(model).keys() == params_of(model).keys()
    with pytest.raises(StructureError, match="first match of no parameter"):
        label(model, {"0.weight": "a", "*": "rest"})


NORMS = {
    "LayerNorm": nn.LayerNorm((3, 4)),
    "GroupNorm": nn.GroupNorm(2, 4),
    "BatchNorm1d": nn.BatchNorm1d(4),
    "BatchNorm2d": nn.BatchNorm2d(4),
    "InstanceNorm2d": nn.InstanceNorm2d(4, affine=True),
    "RMSNorm": nn.RMSNorm((3, 4)),
    "MyRMSNorm": MyRMSNorm(),
}


@pytest.mark.parametrize("kind", NORMS)
def test_normalizations_do_not_decay(kind):
    """No parameter of a normalization decays, whatever its shape, nor of a class that calls itself one."""
    labels = decay_labels(nn.Sequential(nn.Linear(2, 2), NORMS[kind]))
    own = {name: tag for name, tag in labels.items() if name.startswith("1.")}
    assert own
    assert set(own.values()) == {"no_decay"}
    assert labels["0.weight"] == "decay"


def test_biases_do_not_decay():
    """A name whose last part has the word bias in it does not decay, whatever its shape; matrices do."""
    labels = decay_labels(nn.MultiheadAttention(4, 2, add_bias_kv=True))
    weights = {"in_proj_weight", "out_proj.weight"}
    assert {name for name, tag in labels.items() if tag == "decay"} == weights
    assert labels.keys() - weights == {"in_proj_bias", "out_proj.bias", "bias_k", "bias_v"}
    swin = {
        "relative_position_bias_table": torch.ones(3, 2),
        "bias.weight": torch.ones(2, 2),
        "unbiased": torch.ones(2, 2),
    }
    assert list(decay_labels(swin).values()) == ["no_decay", "decay", "decay"]
    module = nn.Module()
    module.bias = nn.Parameter(torch.ones(2, 2))
    module.scale = nn.Parameter(torch.ones(()))
    assert decay_labels(module) == {"bias": "no_decay", "scale": "no_decay"}
    assert decay_labels(nn.Conv2d(1, 1, 1)) == {"weight": "decay", "bias": "no_decay"}


def test_embeddings_decay_unless_asked():
    """Embeddings decay; with decay_embeddings=False they do not, and a weight tied to one does not either."""
    model = nn.Sequential(nn.Embedding(3, 2), nn.EmbeddingBag(3, 2), nn.Linear(2, 2))
    both = {"0.weight": "decay", "1.weight": "decay", "2.weight": "decay", "2.bias": "no_decay"}
    assert decay_labels(model) == both
    assert decay_labels(model, decay_embeddings=False) == {**both, "0.weight": "no_decay", "1.weight": "no_decay"}
    assert [decay_labels(Tied(), decay_embeddings=flag)["embed.weight"] for flag in (True, False)] == [
        "decay",
        "no_decay",
    ]


def test_decay_labels_of_a_dict_go_by_names_and_shapes():
    """Without a module only dimensions and names are known, so a matrix of a normalization decays."""
    assert decay_labels(params_of(Tied())) == {"embed.weight": "decay", "norm.gain": "decay", "head.bias": "no_decay"}
