"""A number of an exported optimizer or transform may be a float, a tensor or a Schedule: found by introspection."""

import attrs
import pytest
import torch
from law_things import exports, things

import fnopt
from fnopt import SGD
from fnopt.record import evolve


def numbers(value):
    """The numbers of a field, which holds one or a tuple of them."""
    return value if isinstance(value, tuple) else (value,)


ROWS = [
    pytest.param(
        thing.made, list(thing.drawn.get("names", "ab")), field.name, item, id=f"{name}{place}-{field.name}-{item}"
    )
    for name in exports()
    for place, thing in enumerate(things(name))
    if hasattr(thing.made, "update") or hasattr(thing.made, "transform")
    for field in attrs.fields(type(thing.made))
    if not field.metadata.get("static")
    for item, value in enumerate(numbers(getattr(thing.made, field.name)))
    if isinstance(value, float)
    if not (field.name == "dampening" and thing.made.nesterov)  # has to be the float 0
]


class Asked:
    """A Schedule of one value, which remembers when it was asked."""

    def __init__(self, value):
        self.value, self.steps = value, []

    def __call__(self, step):
        self.steps.append(int(step))
        return torch.tensor(self.value, dtype=torch.float64)


def results(made, names, updates=3):
    """What updates of float64 params give, by gradients that change."""
    grads = {name: torch.linspace(-1, 2, 6, dtype=torch.float64).reshape(2, 3) for name in names}
    params = {name: torch.linspace(2, -1, 6, dtype=torch.float64).reshape(2, 3) for name in names}
    state = made.init_state(params)
    for update in range(updates):
        if hasattr(made, "update"):
            params, state = made.update({name: leaf * (update + 1) for name, leaf in grads.items()}, state, params)
            yield params
        else:
            result, state = made.transform({name: leaf * (update + 1) for name, leaf in grads.items()}, state, params)
            yield result


def with_number(made, field, item, value):
    """The same with another value of one number."""
    old = getattr(made, field)
    changed = tuple(value if place == item else one for place, one in enumerate(numbers(old)))
    return evolve(made, **{field: changed if isinstance(old, tuple) else value})


@pytest.mark.parametrize(("made", "names", "field", "item"), ROWS)
def test_a_float_a_tensor_and_a_schedule_are_the_same_number(made, names, field, item):
    """All three give the same results (to rounding), and a Schedule is asked by the number of updates done."""
    value = numbers(getattr(made, field))[item]
    asked, tensor = Asked(value), torch.tensor(value)
    plain = list(results(made, names))
    close = 1e-6 if type(made).__name__ != "Muon" else 1e-2  # it computes in bfloat16; tensors here are float32
    for other, rounding in ((asked, 1e-12), (tensor, close)):
        for mine, theirs in zip(results(with_number(made, field, item, other), names), plain, strict=True):
            for name, leaf in mine.items():
                torch.testing.assert_close(leaf, theirs[name], rtol=rounding, atol=rounding)
    assert [*dict.fromkeys(asked.steps)] == ([0] if field == "initial_accumulator_value" else [0, 1, 2])


def test_most_numbers_are_found():
    """The introspection above is not about nothing."""
    assert {"SGD1-lr-0", "AdamW0-betas-0", "AdamW0-betas-1", "ema0-decay-0", "lookahead0-alpha-0"} <= {
        r.id for r in ROWS
    }
    assert isinstance(SGD().lr, float)


WITHOUT_DECAY = [
    SGD(0.1, momentum=0.9),
    fnopt.Adagrad(),
    fnopt.Adam(amsgrad=True),
    fnopt.AdamW(weight_decay=0.0),
    fnopt.Lion(),
    fnopt.RMSprop(momentum=0.9, centered=True),
]


@pytest.mark.parametrize("optimizer", WITHOUT_DECAY, ids=lambda optimizer: type(optimizer).__name__)
def test_without_decay_no_memory_knows_the_params(optimizer):
    """The state after updates with infinite params has the bits of the state after updates with zeros."""
    grads, states = {"w": torch.tensor([-0.0, 1.0, -2.0])}, []
    for value in (0.0, torch.inf):
        params = {"w": torch.full((3,), value)}
        state = optimizer.init_state(params)
        for _ in range(2):
            _, state = optimizer.update(grads, state, params)
        states.append(
            {key: {"w": leaf["w"].tolist()} if key != "step" and leaf else leaf for key, leaf in state.items()}
        )
    assert repr(states[0]) == repr(states[1])  # which tells -0.0 from 0.0
