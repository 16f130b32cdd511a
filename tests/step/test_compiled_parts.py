"""What compiled steps are composed of: rules and steps of strangers, tensors of a closure, nests of micro-batches."""

import re
from typing import Any, ClassVar

import pytest
import torch
from compile_cases import (
    BOUND,
    NETWORK_BOUND,
    batch_of,
    close,
    counted,
    gap,
    micro_batches,
    side_by_side,
    small,
)
from step_cases import identical, make_batch, mlp, squared
from torch import nn
from torch.utils._pytree import tree_map

from fnopt import (
    SGD,
    AdamW,
    ClipNorm,
    DynamicLossScale,
    Muon,
    TrainState,
    accumulate,
    autocast,
    chain,
    compiled,
    cosine,
    decay_labels,
    ema,
    ensemble,
    evolve,
    label,
    make_step,
    partition,
    record,
    snapshot,
    value_and_grad,
)
from fnopt._torch import trace
from fnopt.compile import passes as passes_module
from fnopt.compile import program as program_module
from fnopt.compile.passes import realise_scalars


@record
class HeavyBall:
    """A rule that remembers the params themselves: the old ones become memory, while new ones take their place."""

    scope: ClassVar = "element"
    lr: float = 0.1

    def init_state(self, params):
        return {"last": {name: p.clone() for name, p in params.items()}}

    def update(self, grads, state, params):
        new = {name: p - self.lr * grads[name] + 0.5 * (p - state["last"][name]) for name, p in params.items()}
        return new, {"last": dict(params)}


def test_a_value_that_is_an_old_tensor_is_kept_before_it_is_overwritten():
    """New memory that is the old params has their values; a tensor that the loss closes over is read at every call."""
    weights = nn.Parameter(torch.ones(6))  # of a teacher, say

    def loss(params, batch):
        return (weights * (params["w"] - batch).square()).sum() + params["v"].sum(), 1

    step = make_step(value_and_grad(loss), HeavyBall())
    kernels = compiled(step)
    state = step.init_state({"w": torch.linspace(-1, 1, 6), "v": torch.ones(2, 2)})
    for seed in range(3):
        weights.data.mul_(0.5)
        old = snapshot(state)
        expected, wanted = step.step(snapshot(state), batch_of(seed))
        state, metrics = kernels.step(state, batch_of(seed))
        assert identical(state.opt_state["last"], old.params)
        assert gap(old, state, expected) <= BOUND
        assert close(metrics, wanted)
    assert kernels.stats.compiles == 1


@pytest.mark.slow
def test_a_rule_for_matrices_beside_a_packed_one():
    """Muon keeps its matrices, AdamW's vectors are one buffer, and the average and the clip are over both."""
    model = mlp()
    # no iterations: five of them may make 480 times as much of a last bit (docs/design.md), and bound nothing
    muon = Muon(0.1, weight_decay=0.0, ns_steps=0)
    optimizer = partition({"muon": muon, "rest": AdamW(0.1)}, label(model, {"*weight": "muon", "*": "rest"}))
    step = make_step(value_and_grad(model, squared), chain(ClipNorm(1.0), ema(optimizer, 0.9)))
    kernels = compiled(step)
    found = side_by_side(step, kernels, step.init_state(model), [make_batch(seed) for seed in range(3)])
    for error, metrics, wanted, _, _ in found:
        assert error <= 4 * 2.0**-8  # eager rounds entry, norm and quotient to bfloat16; kernels the quotient
        assert close(metrics, wanted)
    assert sorted(leaf.ndim for leaf in kernels.last_state.__dict__["_lender"].leaves if leaf.ndim) == [1] * 4 + [2] * 6


def test_nests_of_micro_batches():
    """Lists of lists fold too, under autocast, dropping what is not finite, with sums that are one tensor twice."""
    grad_fn = accumulate(accumulate(value_and_grad(mlp(), counted), drop_nonfinite=True))
    step = make_step(autocast(grad_fn), SGD(0.01), loss_scale=DynamicLossScale())
    kernels = compiled(step)
    x, y = make_batch(7)
    lists = [[micro_batches(0, 8, 8), micro_batches(5, 8)], [micro_batches(9, 8), [(x * float("inf"), y), (x, y)]]]
    found = side_by_side(step, kernels, step.init_state(mlp()), lists)
    assert [int(metrics["dropped"]) for _, metrics, *_ in found] == [0, 1]
    for error, metrics, wanted, _, _ in found:
        assert error <= 2.0**-8  # the forward pass is in bfloat16
        assert close(metrics, wanted, rtol=2.0**-7, atol=1e-3)
    assert (kernels.stats.graphs, kernels.stats.eager, kernels.stats.mode) == (2, 0, "compiled")


@record
class Together:
    """A step of a stranger: several models at once, by vmap, each with its own lr and its own dropout."""

    step_of_one: Any
    size: int

    def init_state(self, model, seed=0):
        one = self.step_of_one.init_state(model, seed=seed)
        return tree_map(lambda leaf: torch.stack([leaf] * self.size) if torch.is_tensor(leaf) else leaf, one)

    def step(self, state, batch):
        names = ("params", "buffers", "opt_state", "loss_scale", "updates", "extra")

        def one(trees, lr):
            inner = evolve(self.step_of_one, optimizer=evolve(self.step_of_one.optimizer, lr=lr))
            new, metrics = inner.step(TrainState(**trees, position=state.position, seed=state.seed), batch)
            return {name: getattr(new, name) for name in names}, metrics

        trees = {name: getattr(state, name) for name in names}
        new, metrics = torch.vmap(one, randomness="different")(trees, self.step_of_one.optimizer.lr)
        return TrainState(**new, position=state.position + 1, seed=state.seed), metrics

    def eval_params(self, state):
        return state.params


@pytest.mark.slow
def test_a_step_of_a_stranger_is_one_graph():
    """A step that is none of ours, here a vmap over three of ours, compiles as it is, and draws what it draws."""
    model = mlp(nn.Dropout(0.3))
    step = Together(make_step(value_and_grad(model, squared), SGD(torch.tensor([0.001, 0.01, 0.02]))), 3)
    kernels = compiled(step)
    found = side_by_side(step, kernels, step.init_state(model, seed=1), [make_batch(seed) for seed in range(3)])
    for error, metrics, wanted, _, _ in found:
        assert error <= NETWORK_BOUND
        assert close(metrics, wanted)
    params = kernels.last_state.params["0.weight"]
    assert not torch.equal(params[1], params[2])
    assert (kernels.stats.graphs, kernels.stats.fallback) == (1, None)


@pytest.mark.slow
def test_an_ensemble_is_packed_member_by_member():
    """compiled(ensemble(step)) is the ensemble: one buffer per label, with members as rows, and one scalar for each."""
    model = mlp(nn.Dropout(0.2))
    rule = AdamW(lr=torch.tensor([0.001, 0.01, 0.1]), weight_decay=0.1)
    groups = partition({"decay": rule, "no_decay": evolve(rule, weight_decay=0.0)}, decay_labels(model))
    one = make_step(
        value_and_grad(model, squared), chain(ClipNorm(1.0), ema(groups, 0.9)), loss_scale=DynamicLossScale()
    )
    step = ensemble(one, size=3)
    kernels = compiled(step)
    found = side_by_side(step, kernels, step.init_state(model, seed=1), [make_batch(seed) for seed in range(3)])
    for error, metrics, wanted, state, expected in found:
        assert error <= NETWORK_BOUND
        assert close(metrics, wanted)
        assert list(state.params) == list(expected.params)
    rows = [tuple(leaf.shape) for leaf in kernels.last_state.__dict__["_lender"].leaves if leaf.ndim == 2]
    assert rows == [(3, 64), (3, 12)] + [(3, 64)] * 2 + [(3, 12)] * 2 + [(3, 64), (3, 12)]
    assert kernels.stats.compiles == 1


def scalars_into_large(graph):
    """The operations of a graph that take a computed 0-d value beside a large tensor, but for views of such values."""
    found = []
    for node in graph.graph.nodes:
        if getattr(node.meta.get("val"), "ndim", 0):
            for source in node.all_input_nodes:
                computed = source.op == "call_function" and source.meta["val"].ndim == 0
                if computed and source.target != torch.ops.aten.as_strided.default:
                    found.append((source.name, node.name))
    return found


def test_scalars_are_realised_before_they_meet_a_buffer():
    """No operation on a large tensor takes 0-d arithmetic as it is; without the pass some do. Values are equal."""

    def update(p, t):
        return [p * (1 - torch.pow(0.9, t)) + t.sqrt(), t + 1]

    inputs = [torch.ones(64), torch.tensor(3.0, dtype=torch.float64)]
    graph, _ = trace(update, inputs)
    before, wanted = scalars_into_large(graph), graph(*inputs)
    realise_scalars(graph)
    assert len(before) == 2
    assert scalars_into_large(graph) == []
    assert identical(list(graph(*inputs)), list(wanted))


@pytest.mark.parametrize("careful", [True, False])
def test_scalars_that_are_views_keep_their_place(careful, monkeypatch):
    """An entry of a larger tensor, picked in any way, is not mistaken for the first one in its memory.

    Negative control: without the look at where a value lies, it is.
    """
    if not careful:
        monkeypatch.setattr(passes_module, "_is_whole", lambda value: True)

    def picks(w, x):
        second, third = w[1], w.unbind(0)[2]
        fourth, last = w.split(1)[3].reshape(()), w[4:].sum()
        return [x * second + x * third, x * fourth * last, x * w.flip(0)[0], x * w[2:3].clone()[0]]

    inputs = [torch.arange(6.0), torch.ones(8)]
    graph, _ = trace(picks, inputs)
    wanted = graph(*inputs)
    realise_scalars(graph)
    assert identical(list(graph(*inputs)), list(wanted)) == careful
    assert identical(wanted[3], torch.full((8,), 2.0))


@pytest.mark.slow
@pytest.mark.parametrize("realised", [True, False])
def test_no_power_in_the_loop_over_entries(realised, monkeypatch):
    """The loop over a buffer computes no bias correction; without the pass (negative control) it does."""
    from torch._inductor.graph import GraphLowering

    codes = []
    monkeypatch.setattr(GraphLowering, "save_output_code", staticmethod(codes.append))
    if not realised:
        monkeypatch.setattr(program_module, "realise_scalars", lambda graph, members: None)
    step, state = small(AdamW(lr=cosine(peak=0.1, end=0.0, steps=10)))
    state = step.init_state({"w": torch.ones(64), "v": torch.ones(2, 2)})
    with torch._inductor.config.patch(force_disable_caches=True):
        step.step(state, batch_of(0, 64))
    loops = re.findall(r"for\(.*?\n        }\n", "".join(codes), re.DOTALL)
    assert loops
    assert any("pow" in loop for loop in loops) != realised
