"""A number of an exported optimizer or transform may be a float, a tensor or a Schedule: found by introspection."""

import attrs
import pytest
import torch
from law_things import exports, things

from fnopt import SGD
from fnopt.record import evolve

ROWS = [
    pytest.param(thing.made, list(thing.drawn.get("names", "ab")), field.name, id=f"{name}{place}-{field.name}")
    for name in exports()
    for place, thing in enumerate(things(name))
    if hasattr(thing.made, "update") or hasattr(thing.made, "transform")
    for field in attrs.fields(type(thing.made))
    if not field.metadata.get("static")
    for value in [getattr(thing.made, field.name)]
    if isinstance(value, float) or (isinstance(value, tuple) and value and isinstance(value[-1], float))
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


@pytest.mark.parametrize(("made", "names", "field"), ROWS)
def test_a_float_a_tensor_and_a_schedule_are_the_same_number(made, names, field):
    """All three give the same results (to rounding), and a Schedule is asked by the number of updates done."""
    value = getattr(made, field)
    kinds = Asked if isinstance(value, float) else lambda numbers: (*numbers[:-1], Asked(numbers[-1]))
    asked = kinds(value)
    tensor = torch.tensor(value) if isinstance(value, float) else (*value[:-1], torch.tensor(value[-1]))
    plain = list(results(made, names))
    close = 1e-6 if type(made).__name__ != "Muon" else 1e-2  # it computes in bfloat16; tensors here are float32
    for other, rounding in ((asked, 1e-12), (tensor, close)):
        for mine, theirs in zip(results(evolve(made, **{field: other}), names), plain, strict=True):
            for name, leaf in mine.items():
                torch.testing.assert_close(leaf, theirs[name], rtol=rounding, atol=rounding)
    steps = (asked if isinstance(value, float) else asked[-1]).steps
    assert [*dict.fromkeys(steps)] == ([0] if field == "initial_accumulator_value" else [0, 1, 2])


def test_most_numbers_are_found():
    """The introspection above is not about nothing."""
    assert {"SGD1-lr", "AdamW0-betas", "ema0-decay", "lookahead0-alpha", "ClipNorm0-max_norm"} <= {r.id for r in ROWS}
    assert isinstance(SGD().lr, float)
