"""What is changed in a graph before it becomes kernels keeps every bit of what it computes."""

import pytest
import torch
from torch import Tensor

from fnopt._torch import gather, trace
from fnopt.compile import passes
from fnopt.compile.passes import gather_many, pack_first, share_equal

aten = torch.ops.aten


def traced(fn, *inputs):
    """The graph of a function of tensors."""
    graph, _ = trace(lambda *leaves: [fn(*leaves)], inputs)
    share_equal(graph)
    return graph


def targets(graph):
    """The operations of a graph, in order."""
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def drawn(*shapes, dtype=torch.float32):
    """Tensors of these shapes, one of them lying across."""
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    return [leaf.mT.contiguous().mT if leaf.ndim > 1 else leaf for leaf in leaves]


def unscaled(*leaves: Tensor) -> Tensor:
    """Parts cast, multiplied, selected and packed, as gradients are."""
    *parts, scale, good = leaves
    return torch.cat([torch.where(good, part.to(torch.float32) * scale, 0.0).reshape(-1) for part in parts])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("good", [True, False])
def test_what_all_parts_have_in_common_is_done_after_packing(dtype, good):
    """Three parts that are cast, scaled and selected become one pack that is; the bits are the same."""
    inputs = [*drawn((2, 3), (4,), (3, 2), dtype=dtype), torch.tensor(0.3), torch.tensor(good)]
    inputs[0][0, 0] = torch.nan
    graph = traced(unscaled, *inputs)
    before = graph(*inputs)[0]
    assert targets(graph).count(aten.mul.Tensor) == 3
    pack_first(graph)
    assert targets(graph).count(aten.mul.Tensor) == 1
    assert targets(graph).count(aten.where.self) == 1
    assert targets(graph).count(aten._to_copy.default) == (dtype != torch.float32)
    after = graph(*inputs)[0]
    assert torch.equal(before.view(torch.int32), after.view(torch.int32))


DIFFERENT = {
    "another number each": lambda a, b, s: torch.cat([a * s, b * (s + 1)]),
    "another operation": lambda a, b, s: torch.cat([a * s, b / s]),
    "a vector for a number": lambda a, b, s: torch.cat([a * b, b * a]),
    "made larger on the way": lambda a, b, s: torch.cat([a.sum() * b, b.sum() * b]),
    "one part only": lambda a, b, s: torch.cat([a * s]) + b,
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_parts_that_differ_stay_as_they_are(kind):
    """Where parts have no operation with the same numbers in common, nothing changes."""
    inputs = [*drawn((4,), (4,)), torch.tensor(0.3)]
    graph = traced(DIFFERENT[kind], *inputs)
    before, ops = graph(*inputs)[0], targets(graph)
    pack_first(graph)
    assert targets(graph) == ops
    assert torch.equal(graph(*inputs)[0], before)


def test_what_is_used_elsewhere_too_keeps_its_value():
    """A part that somebody else reads is still there."""
    inputs = [*drawn((4,), (3,)), torch.tensor(0.3)]
    graph, _ = trace(lambda a, b, s: [torch.cat([a * s, b * s]), (a * s).sum()], inputs)
    share_equal(graph)
    before = graph(*inputs)
    pack_first(graph)
    assert all(map(torch.equal, graph(*inputs), before))


def test_very_many_parts_are_gathered_by_one_call(monkeypatch):
    """Beyond MANY parts the pack is an operation that the compiler calls; the values are those of cat."""
    monkeypatch.setattr(passes, "MANY", 3)
    for count, op in ((3, aten.cat.default), (4, gather())):
        inputs = drawn(*[(2,)] * count)
        graph = traced(lambda *parts: torch.cat(parts), *inputs)
        gather_many(graph)
        assert targets(graph) == [op]
        assert torch.equal(graph(*inputs)[0], torch.cat(inputs))
