"""Layout: rules that look at each entry alone run on a few flat buffers, and cannot tell."""

import attrs
import pytest
import torch
from step_cases import identical, untouched

import fnopt
from fnopt import (
    SGD,
    AdamW,
    Centralize,
    ClipNorm,
    ClipValue,
    Muon,
    ScaleByAdam,
    ScheduleFree,
    chain,
    constant,
    ema,
    freeze,
    lookahead,
    partition,
    record,
)
from fnopt.compile.held import hold
from fnopt.compile.layout import layout_of
from fnopt.errors import StructureError
from fnopt.step import make_step

SHAPES = {"w": (5, 7), "w.bias": (7,), "scalar": (), "empty": (0, 3), "one": (1, 1), "conv[0]": (4, 3, 2, 2)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64, "complex64": torch.complex64}
HALVES = {name: "a" if place % 2 else "b" for place, name in enumerate(SHAPES)}
RULES = {
    name: thing
    for name, thing in vars(fnopt).items()
    if attrs.has(thing) and hasattr(thing, "update") and thing.__module__.startswith("fnopt.rules.")
}
ELEMENT = {name: rule() for name, rule in RULES.items() if getattr(rule, "scope", "leaf") == "element"}
ELEMENT |= {
    "SGD, all of it": SGD(lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.1),
    "AdamW, all of it": AdamW(lr=constant(0.1), amsgrad=True, maximize=True),
    "chain": chain(ClipValue(0.5), ScaleByAdam(), SGD(0.1)),
    "ema": ema(AdamW(0.1), decay=0.5),
    "lookahead": lookahead(SGD(0.1, momentum=0.5), k=2),
    "ScheduleFree": ScheduleFree(SGD(0.1)),
    "partition": partition({"a": AdamW(0.1), "b": SGD(0.3, momentum=0.9)}, HALVES),
    "freeze": freeze(AdamW(0.1), "w*", "conv*"),
    "nested": ema(
        partition({"a": freeze(ema(AdamW(0.1)), "*bias"), "b": chain(ClipValue(1.0), AdamW())}, HALVES), decay=0.9
    ),
}


def drawn(seed, dtype=torch.float32, shapes=SHAPES):
    """Tensors by name; one of them lies in memory in another order."""
    generator = torch.Generator().manual_seed(seed)
    made = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for name, shape in shapes.items()
    }
    return {
        name: leaf.contiguous(memory_format=torch.channels_last) if leaf.ndim == 4 else leaf
        for name, leaf in made.items()
    }


def both_ways(optimizer, params, steps=3):
    """(params, state) after some updates: as they are, and packed and unpacked again."""
    plain, state = dict(params), optimizer.init_state(params)
    layout = layout_of(optimizer, params, state)
    assert len(set(layout.names.values())) < len(layout.names)
    packed = layout.params.pack(plain)
    packed_state = state if layout.state is None else layout.state.pack(state)
    rule = layout.optimizer(optimizer)
    for seed in range(steps):
        grads = drawn(100 + seed, torch.float32 if params["w"].dtype == torch.bfloat16 else params["w"].dtype)
        plain, state = optimizer.update(grads, state, plain)
        packed, packed_state = rule.update(layout.params.pack(grads), packed_state, packed)
    shown = packed_state if layout.state is None else layout.state.unpack(packed_state)
    return (plain, state), (layout.params.unpack(packed), shown)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENT)
def test_packed_is_plain_to_the_bit(name, dtype):
    """Three updates of every rule of scope "element", and of wrappers of them: packed, the same bits everywhere."""
    plain, packed = both_ways(ELEMENT[name], drawn(0, DTYPES[dtype]))
    assert identical(plain, packed)


def test_most_rules_are_among_them():
    """The table above is not empty by accident: these rules say that they look at each entry alone."""
    assert ELEMENT.keys() >= {"SGD", "Adam", "AdamW", "Lion", "RMSprop", "Adagrad"}


def test_packed_is_not_plain_where_a_rule_lies():
    """Negative control: a rule that says "element" and looks at a whole leaf is found out by the law above."""

    @record
    class Liar(SGD):
        def update(self, grads, state, params):
            return super().update({name: leaf / (1 + leaf.abs().sum()) for name, leaf in grads.items()}, state, params)

    plain, packed = both_ways(Liar(0.1), drawn(0))
    assert not identical(plain, packed)


def test_a_sum_over_all_leaves_may_be_packed():
    """Scope "global": packed and plain agree to rounding."""
    plain, packed = both_ways(chain(ClipNorm(0.1), AdamW(0.1)), drawn(0))
    for name, leaf in plain[0].items():
        assert torch.allclose(packed[0][name], leaf, rtol=1e-6, atol=1e-6)


def test_one_buffer_for_each_label_and_dtype():
    """Two labels and two dtypes of one label make three buffers, in each of params, moments and average."""
    params = {"a": torch.ones(2), "b": torch.ones(3), "c": torch.ones(4, dtype=torch.bfloat16), "d": torch.ones(5)}
    optimizer = ema(partition({"x": AdamW(), "y": SGD()}, {"a": "x", "b": "x", "c": "x", "d": "y"}))
    state = optimizer.init_state(params)
    layout = layout_of(optimizer, params, state)
    packed = layout.params.pack(params)
    assert [(leaf.numel(), leaf.dtype) for leaf in packed.values()] == [
        (5, torch.float32),
        (4, torch.bfloat16),
        (5, torch.float32),
    ]
    assert list(layout.state.pack(state)["ema"]) == list(packed)
    assert list(layout.state.pack(state)["optimizer"]["x"]["exp_avg"]) == list(packed)[:2]


def test_scope_is_decided_label_by_label():
    """A rule that needs matrices keeps them; beside it, another is packed; a transform in front keeps all."""
    params = {"m": torch.ones(2, 2), "n": torch.ones(2, 2), "a": torch.ones(2), "b": torch.ones(2)}
    labels = {"m": "muon", "n": "muon", "a": "adam", "b": "adam"}
    mixed = partition({"muon": Muon(), "adam": AdamW()}, labels)
    for optimizer in (mixed, ema(mixed), chain(ClipNorm(1.0), lookahead(ema(mixed)))):
        layout = layout_of(optimizer, params, optimizer.init_state(params))
        assert [layout.names[name] for name in "mn"] == ["m", "n"]
        assert layout.names["a"] == layout.names["b"] != "a"
    first = chain(Centralize(), AdamW())
    assert set(layout_of(first, params, first.init_state(params)).names) == set(params)
    assert layout_of(first, params, first.init_state(params)).names["a"] == "a"


def test_a_strangers_way_to_divide_is_left_alone():
    """A wrapper that gives parameters to parts by name, and is none of ours, gets the names it knows."""

    @record
    class FirstOnly:
        optimizer: object
        scope = "element"

        def init_state(self, params):
            return self.optimizer.init_state({"a": params["a"]})

        def update(self, grads, state, params):
            new, state = self.optimizer.update({"a": grads["a"]}, state, {"a": params["a"]})
            return {**params, **new}, state

        def inner(self, names):
            return [("", self.optimizer, [name for name in names if name == "a"])]

    params = {"a": torch.ones(2), "b": torch.ones(2)}
    rule = FirstOnly(SGD(0.1))
    assert layout_of(rule, params, rule.init_state(params)).names == {"a": "a", "b": "b"}


def test_views_lie_in_memory_as_the_parameters_did():
    """Unpacked leaves are views of the buffer, with the strides that the parameters had; packing copies."""
    params = drawn(1)
    optimizer = AdamW()
    layout = layout_of(optimizer, params, optimizer.init_state(params))
    with untouched(params):
        packed = layout.params.pack(params)
        shown = layout.params.unpack(packed)
        assert identical(shown, params)
        assert {name: leaf.stride() for name, leaf in shown.items()} == {k: p.stride() for k, p in params.items()}
        next(iter(packed.values())).zero_()
    assert not any(leaf.any() for leaf in shown.values())


def test_a_state_of_another_optimizer_is_refused():
    """A state that lacks a memory, or holds one more, is a StructureError; `hold` then packs nothing of it."""
    params = drawn(2)
    optimizer = AdamW(amsgrad=True)
    step = make_step(fnopt.value_and_grad(lambda params, batch: (params["w"].sum(), 1)), AdamW())
    state = step.init_state(params)
    with pytest.raises(StructureError, match="opt_state"):
        layout_of(optimizer, params, {**state.opt_state, "more": torch.ones(())})
    with pytest.raises(StructureError, match="opt_state/exp_avg"):
        layout_of(AdamW(), params, {**state.opt_state, "exp_avg": {"w": params["w"]}})
    held = hold(
        fnopt.evolve(step, optimizer=optimizer),
        fnopt.evolve(state, opt_state={**state.opt_state, "more": torch.ones(())}),
    )
    assert set(held.form.layout.names.values()) == set(params)
    assert identical(held.show("params"), params)
