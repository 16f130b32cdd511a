"""compiled: the same step, to rounding, with the same random numbers, whatever it is composed of."""

import pytest
import torch
from compile_cases import (
    BOUND,
    NETWORK_BOUND,
    accumulated,
    batch_of,
    close,
    composed,
    counted,
    gap,
    micro_batches,
    network,
    quadratic,
    side_by_side,
    small,
)
from step_cases import identical, make_batch, squared

from fnopt import SGD, AdamW, compiled, evolve, linear, make_step, run, snapshot, value_and_grad
from fnopt.compile import engine as engine_module


@pytest.fixture(scope="module")
def whole():
    """(step, compiled step, where three steps of it led): one graph for the whole step."""
    step = composed(network())
    kernels = compiled(step)
    found = side_by_side(step, kernels, step.init_state(network(), seed=3), [make_batch(seed) for seed in range(4)])
    return step, kernels, found


@pytest.fixture(scope="module")
def folded():
    """The same over micro-batches: two, three and one of them, of a size that compiles and one that is seen once."""
    step = accumulated(network())
    kernels = compiled(step)
    lists = [micro_batches(0, 8, 8), micro_batches(10, 8, 8, 8), micro_batches(20, 8), micro_batches(30, 8, 5)]
    return step, kernels, side_by_side(step, kernels, step.init_state(network(), seed=3), lists)


@pytest.mark.parametrize("case", ["whole", "folded"])
def test_a_compiled_step_is_the_eager_one(case, request):
    """Params per step from the same state within the bound; buffers, averages, moments and metrics to rounding."""
    _, kernels, found = request.getfixturevalue(case)
    assert kernels.stats.fallback is None
    for error, metrics, wanted, state, expected in found:
        assert error <= NETWORK_BOUND
        assert close(metrics, wanted)
        assert close(state.buffers, expected.buffers)
        assert identical(state.loss_scale, expected.loss_scale)
        for (name, mine), theirs in zip(flat(state.opt_state).items(), flat(expected.opt_state).values(), strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6), name
        assert (int(state.updates), state.position, state.seed) == (int(expected.updates), expected.position, 3)


def flat(tree, path=""):
    """The tensors of a nested dict by path."""
    if isinstance(tree, torch.Tensor):
        return {path: tree}
    return {name: leaf for key, part in tree.items() for name, leaf in flat(part, f"{path}/{key}").items()}


def test_the_comparison_can_fail(whole):
    """Negative control: a step with another lr, or another seed for dropout, is far outside of the bound."""
    step, kernels, found = whole
    state = found[1][3]
    other = evolve(step, optimizer=AdamW(0.02))
    assert (
        gap(state, *[changed(step, state, make_batch(9)), changed(step, evolve(state, seed=4), make_batch(9))]) > 1e-3
    )
    assert kernels.stats.graphs == 1
    assert other.optimizer != step.optimizer


def changed(step, state, batch):
    """The state after one step."""
    return step.step(state, batch)[0]


def test_one_graph_for_a_step_and_two_for_a_fold(whole, folded):
    """A whole step is one graph; a fold has one for the gradient and one for the update, whatever k is."""
    assert (whole[1].stats.graphs, whole[1].stats.compiles, whole[1].stats.eager) == (1, 1, 0)
    assert (folded[1].stats.graphs, folded[1].stats.compiles, folded[1].stats.eager) == (2, 2, 1)
    assert whole[1].stats.mode == "compiled"
    assert folded[1].stats.mode == "eager"  # the last one had a micro-batch of a size not seen before


def test_the_state_lies_in_few_buffers(whole):
    """Params, two moments and the average of each of two groups: eight buffers, whatever the number of parameters."""
    large = [leaf for leaf in whole[1].last_state.__dict__["_lender"].leaves if leaf.ndim == 1 and len(leaf) > 8]
    assert len(large) == 8


@pytest.mark.slow
def test_a_fold_is_the_unrolled_list_to_the_bit(folded, monkeypatch):
    """One graph over both micro-batches gives the bits that two runs of the graph of one and their sum give."""
    model = network()
    for module in model.modules():
        module.training = not isinstance(module, torch.nn.Dropout)  # one graph cannot be seeded twice
    step = accumulated(model)
    one, two = compiled(step), compiled(step)
    batches = micro_batches(5, 8, 8)
    start = folded[2][1][3]
    a, _ = one.step(snapshot(start), batches)
    monkeypatch.setattr(engine_module, "_folds", lambda step: False)
    b, _ = two.step(snapshot(start), batches)
    assert (one.stats.graphs, two.stats.graphs, two.stats.mode) == (2, 1, "compiled")
    assert identical(snapshot(a), snapshot(b))


def test_nothing_recompiles_while_numbers_change():
    """300 steps while decay, betas, eps and the bound of a clip change through evolve, lr by schedule: one graph."""
    step = composed(network(), loss=squared)
    kernels = compiled(step)
    state = kernels.init_state(network(), seed=1)
    for seed in range(150):
        clip, average = kernels.optimizer.transforms[0], kernels.optimizer.optimizer
        inner = average.optimizer
        parts = {
            name: evolve(
                rule, betas=(0.8 + seed / 1000, 0.99), eps=1e-8 * (seed + 1), weight_decay=rule.weight_decay * 1.01
            )
            for name, rule in inner.optimizers.items()
        }
        changed = evolve(average, optimizer=evolve(inner, optimizers=parts), decay=0.9 + seed / 2000)
        optimizer = evolve(kernels.optimizer, transforms=(evolve(clip, max_norm=1.0 + seed),), optimizer=changed)
        kernels = evolve(kernels, optimizer=optimizer)
        for _ in range(2):
            state, _ = kernels.step(state, make_batch(seed))
    assert (kernels.stats.compiles, kernels.stats.graphs, kernels.stats.eager) == (1, 1, 0)
    assert (int(state.updates), state.position) == (300, 300)


def test_a_changed_number_counts():
    """A step evolved with another lr gives what an eager step with that lr gives, from the cache of the first."""
    step, state = small()
    state, _ = step.step(state, batch_of(0))
    for lr in (0.3, torch.tensor(0.2), 0.01):
        slower = evolve(step, optimizer=evolve(step.optimizer, lr=lr))
        old = snapshot(state)
        expected, wanted = evolve(step.inner, optimizer=slower.optimizer).step(snapshot(state), batch_of(1))
        state, metrics = slower.step(state, batch_of(1))
        assert gap(old, state, expected) <= BOUND
        assert close(metrics, wanted)
    assert slower.stats is step.stats
    assert (step.stats.compiles, step.stats.eager) == (1, 1)  # a float32 tensor is another dtype, seen once


def test_shapes_compile_when_they_come_again():
    """The first shape compiles at once; another runs eagerly when first seen, and is compiled the second time."""
    step = compiled(make_step(value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x))), SGD(0.1)))
    state = step.init_state({"w": torch.ones(())})
    modes = []
    for n in (4, 3, 4, 3, 3, 4):
        state, _ = step.step(state, torch.ones(n))
        modes.append((step.stats.mode, step.stats.compiles))
    assert modes == [
        ("compiled", 1), ("eager", 1), ("compiled", 1), ("compiled", 2), ("compiled", 2), ("compiled", 2)
    ]  # fmt: skip
    assert state.params["w"].item() == pytest.approx(0.4)


def test_train_and_eval_mode_are_two_programs(whole):
    """A module put in eval mode after a step was compiled runs in eval mode, and back."""
    model = network()
    step = composed(model, loss=squared)
    kernels, state = compiled(step), step.init_state(model, seed=2)
    for mode in (True, False, False, True):
        model.train(mode)
        ((error, metrics, wanted, state, _),) = side_by_side(step, kernels, state, [make_batch(1)])
        assert error <= NETWORK_BOUND
        assert close(metrics, wanted)
    assert (kernels.stats.graphs, kernels.stats.eager) == (2, 1)


def test_an_overflow_is_skipped_to_the_bit(whole):
    """A batch that overflows leaves params, buffers, moments and `updates` as they are; scale and skips move."""
    _, kernels, found = whole
    start = found[-1][3]
    x, y = make_batch(0)
    state, metrics = kernels.step(snapshot(start), (x * float("inf"), y))
    for field in ("params", "buffers", "opt_state", "updates"):
        assert identical(getattr(state, field), getattr(start, field)), field
    assert state.loss_scale["scale"] == start.loss_scale["scale"] / 2
    assert (int(metrics["skipped"]), int(state.loss_scale["skipped"]), state.position) == (1, 1, start.position + 1)


def test_run_drives_a_compiled_step(whole):
    """`run` takes a compiled step and hands over live states; evaluating between the steps changes nothing."""
    from fnopt import Batches, evaluate

    _, kernels, _ = whole
    xs, ys = make_batch(0, 32)
    data = Batches(torch.utils.data.TensorDataset(xs, ys), batch_size=8, seed=0)
    ends = []
    for look in (False, True):
        for state, _ in run(kernels, kernels.init_state(network(), seed=3), data, updates=6):
            if look:
                evaluate(network(), counted, evolve(state, params=kernels.eval_params(state)), [make_batch(1)])
        ends.append(snapshot(state))
    assert identical(*ends)
    assert kernels.stats.compiles == 1


def test_errors_against_float64_are_those_of_torchs_fused_kernel():
    """Of one AdamW update from the same float32 state, the error is not above that of torch's fused kernel."""
    optimizer = AdamW(lr=linear(0.1, 0.2, steps=3), weight_decay=0.1)
    step, state = small(optimizer)
    exact = make_step(value_and_grad(quadratic), optimizer)
    mine, theirs = [], []
    for seed in range(40):
        start = snapshot(state)
        wide = torch.utils._pytree.tree_map(
            lambda x: x.double() if torch.is_tensor(x) and x.is_floating_point() else x, start
        )
        truth = exact.step(wide, batch_of(seed).double())[0].params
        grads = exact.grad_fn(start, batch_of(seed))
        peer = fused(
            start, {name: leaf / grads.weight for name, leaf in grads.grads.items()}, optimizer.lr(start.updates)
        )
        state, _ = step.step(state, batch_of(seed))
        for name, leaf in truth.items():
            mine.append((state.params[name] - leaf).abs().max())
            theirs.append((peer[name] - leaf).abs().max())
    assert max(mine) <= 1.1 * max(theirs)
    assert sum(mine) <= 1.1 * sum(theirs)


def fused(state, grads, lr):
    """The params after one update of torch's fused AdamW from this state."""
    params = [torch.nn.Parameter(leaf.clone()) for leaf in state.params.values()]
    peer = torch.optim.AdamW(params, lr=float(lr), weight_decay=0.1, fused=True)
    for p, (name, grad) in zip(params, grads.items(), strict=True):
        p.grad = grad
        memory = {key: state.opt_state[key][name].clone() for key in ("exp_avg", "exp_avg_sq")}
        peer.state[p] = {"step": state.updates.float(), **memory}
    peer.step()
    return {name: p.detach() for name, p in zip(grads, params, strict=True)}
