"""What the laws draw: the edges are there, and every case prints as code."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fnopt import SGD, laws
from fnopt.laws.bits import require_same


def drawn(strategy, count=300):
    """What a strategy draws."""
    found = []

    @given(strategy)
    def collect(value):
        found.append(value)

    settings(max_examples=count)(collect)()
    return found


@pytest.mark.parametrize("values", ["any", "finite", "tame"])
def test_drawn_tensors_have_the_edges(values):
    """0-d, empty and transposed ones, all dtypes, both zeros, subnormal numbers; huge and non-finite ones if asked."""
    tensors = drawn(laws.tensors(values=values))
    assert {tuple(x.shape) for x in tensors} == {(), (1,), (3,), (0,), (2, 3)}
    assert {x.dtype for x in tensors} == {torch.float32, torch.float64, torch.bfloat16, torch.float16}
    assert any(not x.is_contiguous() for x in tensors)
    entries = torch.cat([x.flatten().double() for x in tensors])
    assert ((entries == 0) & entries.signbit()).any()
    assert ((entries == 0) & ~entries.signbit()).any()
    assert any(((x != 0) & (x.abs() < torch.finfo(x.dtype).smallest_normal)).any() for x in tensors)
    assert bool(entries.isnan().any() and entries.isinf().any()) == (values == "any")
    assert bool((entries[entries.isfinite()].abs() > 1e30).any()) == (values != "tame")
    assert values != "tame" or entries.abs().max() == 100


def test_drawn_gradients_are_mostly_non_zero():
    """The laws are not about zeros: most entries of most gradients are something else."""
    cases = drawn(laws.cases(values="tame"))
    entries = torch.cat([leaf.flatten().double() for case in cases for grads in case.grads for leaf in grads.values()])
    assert (entries != 0).double().mean() > 0.7
    moved = [any(leaf.any() for leaf in case.grads[0].values()) for case in cases]
    assert sum(moved) > 0.5 * len(moved)


def test_drawn_cases_differ_in_form():
    """No leaf to three, one update to three, gradients in the dtype of params or wider; with names, exactly those."""
    cases = drawn(laws.cases())
    assert {len(case.params) for case in cases} == {0, 1, 2, 3}
    assert {len(case.grads) for case in cases} == {1, 2, 3}
    pairs = {(case.params[name].dtype, leaf.dtype) for case in cases for name, leaf in case.grads[0].items()}
    assert {(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)} <= pairs
    assert {tuple(case.params) for case in drawn(laws.cases(names=("x", "y")), 20)} == {("x", "y")}


@given(st.one_of(laws.cases(), laws.cases(dtypes=(torch.complex64, torch.float16))))
def test_cases_print_as_code(case):
    """The repr of a case is the code that makes it, to the bit and with its strides."""
    again = eval(repr(case), {"torch": torch, "Case": laws.Case})
    for mine, theirs in zip((again.params, *again.grads), (case.params, *case.grads), strict=True):
        require_same(mine, theirs, "again", "as drawn")
        assert [leaf.stride() for leaf in mine.values()] == [leaf.stride() for leaf in theirs.values()]


@given(laws.cases(), st.data())
def test_a_law_leaves_the_case_as_it_was(case, data):
    """A law works on copies: the case that is printed is the case that was drawn."""
    before = repr(case)
    law = data.draw(st.sampled_from([law for law in laws.LAWS.values() if not law.excuse(SGD(0.1))]))
    if law.values == "any":
        law.run(SGD(0.1), case)
    assert repr(case) == before


MODEL = {"w": torch.ones(2, 3), "c": torch.zeros(2, dtype=torch.complex64)}
BATCH = {"x": torch.zeros(4, 3), "tokens": torch.tensor([3, 5, 9]), "mask": torch.tensor([True, False]), "none": None}


@given(laws.calls(model=MODEL, batch=[BATCH, (torch.zeros(0), torch.zeros((), dtype=torch.bfloat16))]))
def test_calls_print_as_code(case):
    """The repr of calls is the code that makes them."""
    again = eval(repr(case), {"torch": torch, "Calls": laws.Calls})
    require_same(again.params, case.params, "params", "as drawn")
    require_same(again.batches, case.batches, "batches", "as drawn")
    assert again.seed == case.seed


def test_drawn_calls_are_like_the_batch():
    """Params near the model's, dtypes and shapes of the batch, integers among its own, and floats that differ."""
    cases = drawn(laws.calls(model=MODEL, batch=BATCH), 50)
    for case in cases:
        assert (case.params["w"] - MODEL["w"]).abs().max() <= 1
        for batch in case.batches:
            assert batch["x"].shape == (4, 3)
            assert {*batch["tokens"].tolist()} <= {3, 5, 9}
            assert batch["mask"].dtype == torch.bool
            assert batch["none"] is None
    assert len({float(case.batches[0]["x"].sum()) for case in cases}) > 10
    assert any(case.params["w"].ne(1).any() for case in cases)
    assert {len(case.batches) for case in cases} == {1, 2, 3}


def test_calls_of_a_module_keep_its_buffers():
    """What a module holds beside its parameters comes along, as it is."""
    (case,) = drawn(laws.calls(model=torch.nn.BatchNorm1d(2), batch=torch.zeros(3, 2)), 1)
    assert list(case.params) == ["weight", "bias"]
    assert sorted(case.buffers) == ["num_batches_tracked", "running_mean", "running_var"]
    assert case.doubled().buffers["running_var"].dtype == torch.float64
