"""Every exported optimizer and transform, found by introspection: errors in its own name, one form of state."""

import pytest
import torch
from law_things import exports, things

from fnopt.errors import FnoptError
from fnopt.rules.ema import Ema
from fnopt.tensors import tmap
from fnopt.transforms.chain import ChainedOptimizer, ChainedTransform

ROWS = [
    pytest.param(thing.made, list(thing.drawn.get("names", "ab")), id=f"{name}{place}")
    for name in exports()
    for place, thing in enumerate(things(name))
    if hasattr(thing.made, "update") or hasattr(thing.made, "transform")
]
FUNCTIONS = {"Ema": "ema", "Lookahead": "lookahead", "Partition": "partition", "Freeze": "freeze"}
HAND_ON = (Ema, ChainedOptimizer, ChainedTransform)  # what gradients are is for the parts to check


def draw(names, dtype=torch.float32):
    """Params, or gradients: matrices, which all rules take."""
    return {name: torch.ones(2, 3, dtype=dtype) for name in names}


def step_of(made):
    """`update` of an optimizer, `transform` of a transform."""
    return getattr(made, "update", None) or made.transform


def owner(made):
    """The name that a user wrote: the export's, not the class that a function makes."""
    name = type(made).__name__
    return FUNCTIONS.get(name, name)


def leaves(tree):
    """Names and tensors of a nested dict."""
    for key, value in tree.items():
        yield from leaves(value) if isinstance(value, dict) else [(key, value)]


@pytest.mark.parametrize(("made", "names"), ROWS)
def test_bad_params_are_refused_in_ones_own_name(made, names):
    """A module or integers in place of params are refused by the thing itself, in the name that the user wrote."""
    if isinstance(made, ChainedOptimizer | ChainedTransform):
        return
    for bad in (torch.nn.Linear(1, 1), tmap(torch.Tensor.long, draw(names))):
        with pytest.raises(FnoptError) as caught:
            made.init_state(bad)
        assert str(caught.value).startswith(f"{owner(made)}: ")


@pytest.mark.parametrize(("made", "names"), ROWS)
def test_bad_grads_are_refused_in_ones_own_name(made, names):
    """Gradients of other names or shapes than params are refused by the thing itself, before its parts see them."""
    if isinstance(made, HAND_ON):
        return
    good = draw(names)
    state = made.init_state(good)
    for bad in ({**good, "more": torch.ones(1)}, {**good, names[0]: torch.ones(7)}):
        with pytest.raises(FnoptError) as caught:
            step_of(made)(bad, state, good)
        assert str(caught.value).startswith(f"{owner(made)}: ")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("made", "names"), ROWS)
def test_the_form_of_a_state_never_changes(made, names, dtype):
    """Keys, order, shapes, dtypes of a state are after updates what init_state made them."""
    params = draw(names, dtype=dtype)
    state = made.init_state(params)
    form = [(key, leaf.shape, leaf.dtype) for key, leaf in leaves(state)]
    for _ in range(2):
        _, state = step_of(made)(draw(names, dtype=dtype), state, params)
        assert [(key, leaf.shape, leaf.dtype) for key, leaf in leaves(state)] == form
        assert all(leaf.dtype == torch.int64 and leaf.ndim == 0 for key, leaf in leaves(state) if key == "step")
