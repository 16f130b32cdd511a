"""Laws find mistakes in fnopt itself: one function of it is made wrong, and the export that uses it breaks a law."""

import pytest
import torch

import fnopt
from fnopt import SGD, AdamW, ClipNorm, ClipValue, chain, laws
from fnopt._torch import inside_transform

PAIR = {"names": ("a", "b")}


def in_place(a, value, b):
    """What torch's own optimizers do."""
    return a.add_(b, alpha=value)


def root_mean_square(tensors):
    """A norm that does not grow with the number of entries."""
    count = sum(leaf.numel() for leaf in tensors.values())
    return fnopt.tensors.global_norm(tensors) / max(1, count) ** 0.5


def as_computed(output, leaf):
    """Results that are not rounded to the dtype of their leaf."""
    return output if leaf.ndim else output.reshape(())


def last_part_only(self, grads, state, params):
    """A chain that forgets all parts but the last."""
    *before, (name, last) = [(name, part) for name, part in zip(state, self.transforms, strict=True)]
    result, new = last.transform(grads, state[name], params)
    return result, {**{name: state[name] for name, _ in before}, name: new}


def of_another_label(self, tag, tensors):
    """The parameters of all labels but one's own."""
    return {name: leaf for name, leaf in tensors.items() if self.labels[name] != tag}


def root_inside_transforms(x):
    """A square root that is safe to differentiate, and wrong."""
    return torch.sqrt(x) + 0.1 * inside_transform()


TWO = chain(ClipValue(1.0), ClipNorm(0.5))
SWAPPED = [
    ("law_pure", "fnopt.rules.sgd.scaled_add", in_place, SGD(0.1), {}),
    ("law_leaves_keep_their_form", "fnopt.tensors._leave", as_computed, SGD(0.1), {}),
    ("law_state_keeps_its_form", "fnopt.tensors._leave", as_computed, AdamW(), {}),
    ("law_step_counts_updates", "fnopt.rules.adamw.first_step", lambda params: torch.ones(()), AdamW(), {}),
    ("law_vmap_is_loop", "fnopt.rules.adamw.sqrt", root_inside_transforms, AdamW(0.1), {}),
    ("law_norm_is_bounded", "fnopt.transforms.clip.global_norm", root_mean_square, ClipNorm(1.0), {}),
    (
        "law_leaves_do_not_meet",
        "fnopt.transforms.chain.widest",
        lambda parts: "element",
        chain(ClipNorm(1.0), SGD()),
        {},
    ),
    ("law_chain_is_a_monoid", "fnopt.transforms.chain.ChainedTransform.transform", last_part_only, TWO, {}),
    ("law_average_stays_within", "fnopt.rules.ema.at", lambda step, decay: (1.5,), fnopt.ema(SGD(0.1), 0.9), {}),
    (
        "law_partition_is_separate_runs",
        "fnopt.rules.partition.Partition._of",
        of_another_label,
        fnopt.partition({"x": SGD(0.1), "y": SGD(0.2)}, {"a": "x", "b": "y"}),
        PAIR,
    ),
]


@pytest.mark.parametrize(("name", "target", "wrong", "thing", "drawn"), SWAPPED, ids=[row[1] for row in SWAPPED])
def test_a_law_catches_a_mistake_in_fnopt(monkeypatch, name, target, wrong, thing, drawn):
    """The law holds on the export, and is broken as soon as one function of fnopt is."""
    assert laws.try_law(laws.LAWS[name], thing, 50, **drawn).verdict != "broken"
    monkeypatch.setattr(target, wrong)
    assert laws.try_law(laws.LAWS[name], thing, 50, **drawn).verdict == "broken"
