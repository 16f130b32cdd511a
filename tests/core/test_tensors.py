"""fnopt.tensors: norms, finiteness, selection, and the casting of leaves."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fnopt.errors import HyperparameterError
from fnopt.tensors import (
    all_finite,
    at,
    each_leaf,
    first_step,
    global_norm,
    power,
    select,
    sqrt,
    tensor_map,
    tmap,
)

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
SHAPES = [(), (0,), (3,), (2, 5), (4, 0, 2), (300,)]
seeds = st.integers(0, 2**32)
leaf_kinds = st.lists(st.tuples(st.sampled_from(SHAPES), st.sampled_from(DTYPES)), max_size=5)


def draw(seed, kinds):
    gen = torch.Generator().manual_seed(seed)
    double = {True: torch.complex128, False: torch.float64}
    leaves = [torch.randn(shape, generator=gen, dtype=double[dtype.is_complex]).to(dtype) for shape, dtype in kinds]
    return {f"leaf{place}": leaf for place, leaf in enumerate(leaves)}


@given(seeds, leaf_kinds)
def test_global_norm_is_the_norm_of_all_entries(seed, kinds):
    """The norm of any leaves, complex, half, 0-d and empty ones, and of none, is that in float64 to its roundings."""
    tensors = draw(seed, kinds)
    norm = global_norm(tensors)
    exact = math.sqrt(math.fsum(float(leaf.to(torch.complex128).abs().square().sum()) for leaf in tensors.values()))
    wide = any(dtype in (torch.float64, torch.complex128) for _, dtype in kinds)
    assert norm.dtype == (torch.float64 if wide else torch.float32)
    assert norm.shape == ()
    # a sum of n squares is off by n u at most, its root by half of that; once per leaf in float32 and once over all
    count = sum(leaf.numel() for leaf in tensors.values())
    assert abs(float(norm) - exact) <= (count / 2 + 4) * 2**-24 * exact


def test_global_norm_of_half_precision_does_not_overflow_in_it():
    """The squares of fp16 entries are summed in float32; those of float32 can overflow, although all are finite."""
    assert float(global_norm({"w": torch.full((4,), 6e4, dtype=torch.float16)})) == pytest.approx(12e4, rel=1e-3)
    large = {"w": torch.full((4,), 1e30)}
    assert float(global_norm(large)) == inf
    assert bool(all_finite(large))


@given(seeds, leaf_kinds, st.data())
def test_all_finite_finds_one_bad_entry(seed, kinds, data):
    """True of drawn numbers; one nan or infinity anywhere, also in an imaginary part, makes it False."""
    tensors = draw(seed, kinds)
    assert all_finite(tensors).dtype == torch.bool
    assert bool(all_finite(tensors))
    inhabited = [name for name, leaf in tensors.items() if leaf.numel()]
    if inhabited:
        leaf = tensors[data.draw(st.sampled_from(inhabited))]
        leaf = torch.view_as_real(leaf) if leaf.is_complex() else leaf
        flat = leaf.view(-1)
        flat[data.draw(st.integers(0, flat.numel() - 1))] = data.draw(st.sampled_from([nan, inf, -inf]))
        assert not bool(all_finite(tensors))


BITS = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=6)


@given(BITS, st.booleans())
def test_select_keeps_every_bit(bits, condition):
    """The chosen side comes through bit by bit, whatever nan, infinity or payload either side holds."""
    one = torch.tensor(bits, dtype=torch.int32)
    new, old = one.view(torch.float32), one.flip(0).bitwise_not().view(torch.float32)
    chosen = select(torch.tensor(condition), {"a": {"w": new}, "n": 3}, {"a": {"w": old}, "n": 3})
    assert torch.equal(chosen["a"]["w"].view(torch.int32), (new if condition else old).view(torch.int32))
    assert chosen["n"] == 3


def test_select_does_not_hand_out_its_inputs():
    """Changing what select returned changes neither side, except where both sides were the same tensor."""
    new, old, same = torch.ones(2), torch.zeros(2), torch.tensor(7)
    for condition in (True, False):
        chosen = select(torch.tensor(condition), {"w": new, "same": same}, {"w": old, "same": same})
        chosen["w"].fill_(5.0)
        assert chosen["same"] is same
        assert (new.tolist(), old.tolist()) == ([1.0, 1.0], [0.0, 0.0])


def test_select_cures_what_a_product_with_zero_cannot():
    """A nan on the side that is not selected leaves no trace."""
    bad, good = torch.tensor([nan, inf]), torch.tensor([1.0, 2.0])
    assert torch.equal(select(torch.tensor(False), bad, good), good)
    assert (good + 0.0 * bad).isnan().all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_leaf_widens_and_rounds_back(dtype, shape):
    """Formulas see real leaves, float32 or wider and at least 1-d; results have the old dtype and shape."""
    params, seen = {"w": torch.ones(shape, dtype=dtype)}, []
    memory = {"w": torch.ones(shape, dtype=torch.float32 if dtype.itemsize == 2 else dtype)}

    def formula(p, g, m, absent):
        seen.extend([p, g, m])
        assert absent is None
        return p + g, m * 2.0, None

    new, kept, empty = each_leaf(formula, params, {"w": params["w"] * 2}, memory, {})
    expected = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
    assert {leaf.dtype for leaf in seen} == {expected}
    assert {leaf.shape for leaf in seen} == {(*shape, 2) if dtype.is_complex else shape or (1,)}
    assert (new["w"].dtype, new["w"].shape, kept["w"].dtype) == (dtype, torch.Size(shape), memory["w"].dtype)
    assert torch.equal(new["w"], torch.full(shape, 3.0, dtype=dtype))
    assert torch.equal(kept["w"], torch.full(shape, 2.0, dtype=memory["w"].dtype))
    assert empty == {}


def test_each_leaf_rounds_once():
    """A half-precision leaf is rounded after the whole formula: 1 + 2**-9 + 2**-9 reaches the next bf16 number."""
    params = {"w": torch.ones(1, dtype=torch.bfloat16)}
    (new,) = each_leaf(lambda p, g: (p + 2**-8 + 2**-8,), params, params)
    assert new["w"].item() == 1 + 2**-7
    assert (params["w"] + 2**-8 + 2**-8).item() == 1.0


def test_each_leaf_takes_grads_of_another_dtype():
    """Float32 gradients of half-precision params enter unrounded, and half ones of float32 params are widened."""
    for p, g in ((torch.bfloat16, torch.float32), (torch.float32, torch.float16)):
        params, grads = {"w": torch.ones(2, dtype=p)}, {"w": torch.full((2,), 0.1, dtype=g)}
        seen = []
        each_leaf(lambda p, g, seen=seen: (seen.append(g) or p,), params, grads)
        assert torch.equal(seen[0], grads["w"].float())


def test_at_asks_schedules_and_nothing_else():
    """Floats and tensors come back as they are, a schedule is called with the step, a vector is refused."""
    step, rate = torch.tensor(4), torch.tensor(0.5)
    plain, tensor, scheduled = at(step, 0.1, rate, lambda step: step * 2.0)
    assert (plain, tensor is rate, scheduled) == (0.1, True, 8.0)
    with pytest.raises(
        HyperparameterError, match=r"shape \[3\], expected a scalar; .* fnopt\.ensemble\(step, size=3\)"
    ):
        at(step, torch.ones(3))


def test_power_is_computed_in_float64():
    """1 - beta**t keeps the digits that float32 would lose: the bias correction of the first steps."""
    for base in (0.999, torch.tensor(0.999, dtype=torch.float64)):
        for t in (1, 2, 1000):
            result = power(base, torch.tensor(t))
            assert result.dtype == torch.float64
            assert result.item() == 0.999**t


def test_sqrt_has_no_infinite_derivative():
    """The values of sqrt are torch's; its derivative is torch's too, but 0 at 0."""
    x = torch.tensor([0.0, 4.0, 2.0])
    assert torch.equal(sqrt(x), torch.sqrt(x))
    for slopes in (
        torch.func.grad(lambda x: sqrt(x).sum())(x),
        torch.autograd.grad(sqrt(leaf := x.clone().requires_grad_()).sum(), leaf)[0],
    ):
        assert slopes.tolist() == pytest.approx([0.0, 0.25, 0.5 / math.sqrt(2.0)])


def test_tmap_and_tensor_map_keep_the_structure():
    """tmap goes leaf by leaf over dicts, tensor_map over any pytree, and what is no tensor stays."""
    a, b = {"x": torch.tensor(1.0), "y": torch.tensor(2.0)}, {"y": torch.tensor(5.0), "x": torch.tensor(3.0)}
    assert tmap(torch.sub, a, b) == {"x": torch.tensor(-2.0), "y": torch.tensor(-3.0)}
    assert tensor_map(torch.neg, [a["x"], ("s", 1, {"k": b["y"]})]) == [-1.0, ("s", 1, {"k": -5.0})]
    assert (first_step({}).item(), first_step(a).dtype, first_step(a).ndim) == (0, torch.int64, 0)
