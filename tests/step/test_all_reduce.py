"""all_reduce: a step of several processes is the step of one; an infinity in one of them is one in all."""

import pytest
import torch
import torch.distributed as dist
from processes import pair as pair
from torch import nn
from torch.utils.data import TensorDataset

import fnopt
from fnopt.errors import NonFiniteError, UsageError

SAMPLES = 33  # the last update of an epoch has one sample: nothing is left for the second process


def squared(model, batch):
    """The squared error, and how many samples were inside of 1."""
    x, y = batch
    error = (model(x) - y).square()
    return error.sum(), len(x), {"close": (error.detach() < 1).sum()}


def dataset(bad=False):
    """The same in every process; `bad` has an infinity in the third sample."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 3, dtype=torch.float64, generator=generator)
    x[2, 0] = torch.inf if bad else x[2, 0]
    return TensorDataset(x, torch.randn(SAMPLES, 1, dtype=torch.float64, generator=generator))


def network(*more):
    """A small model with the same weights in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), *more, nn.Linear(4, 1)).double()


def share(world_size, **options):
    """This process's part of the batches, in the order of the dataset unless told otherwise."""
    rank = dist.get_rank() if world_size > 1 else 0
    given = {"shuffle": False, **options}
    data = given.pop("data", None) or dataset()
    return fnopt.Batches(data, 4, micro_batches=2, world_size=world_size, rank=rank, **given)


def train(world_size, updates=12, *, model=None, together=True, compiled=False, state=None, **options):
    """A run, alone or in step with the other processes: the state, and what the last update reported."""
    model = network() if model is None else model
    grad_fn = fnopt.accumulate(fnopt.value_and_grad(model, squared))
    if world_size > 1 and together:
        grad_fn = fnopt.all_reduce(grad_fn)
    optimizer = fnopt.chain(fnopt.ClipNorm(0.5), fnopt.AdamW(1e-2))
    step = fnopt.make_step(grad_fn, optimizer, loss_scale=fnopt.DynamicLossScale())
    step = fnopt.compiled(step) if compiled else step
    start = step.init_state(model) if state is None else state
    metrics, skips = {}, []
    for state, metrics in fnopt.run(step, start, share(world_size, **options), updates, patience=2):  # noqa: B007
        skips.append(int(metrics["skipped"]))
    mode = step.stats.mode if compiled else "eager"
    return fnopt.snapshot(state), metrics, skips, mode


def plain(found):
    """What a run gave, as numbers that travel between processes."""
    state, metrics, skips, mode = found
    names = ("loss", "weight", "grad_norm", "close")
    return dict(state.params), dict(state.buffers), {name: float(metrics[name]) for name in names}, skips, mode


def trained(*args, **options):
    """`train`, for a pair of processes."""
    return plain(train(*args, **options))


def close(found, expected, rtol=1e-12):
    """Are the tensors those that another order of addition gives?"""
    return all(torch.allclose(found[name], leaf, rtol=rtol, atol=1e-13) for name, leaf in expected.items())


@pytest.mark.parametrize("shuffle", [False, True])
def test_processes_that_share_an_update_make_the_update_of_one(pair, shuffle):
    """Weights, loss, weight and aux of two processes are those of one; small and empty shares count what they hold."""
    params, _, metrics, _, _ = plain(train(1, shuffle=shuffle))
    first, second = pair(trained, 2, shuffle=shuffle)
    assert close(first[0], params)
    assert first[2] == pytest.approx(metrics, rel=1e-12)
    assert all(torch.equal(first[0][name], second[0][name]) for name in params)
    assert first[2] == second[2]


def test_without_it_they_drift_apart(pair):
    """The control: two processes that do not talk end at other weights than one, and than each other."""
    params = plain(train(1))[0]
    first, second = pair(trained, 2, together=False)
    assert not close(first[0], params, 1e-6)
    assert not close(first[0], second[0], 1e-6)


def test_compiled_it_is_the_same_step(pair):
    """Kernels before and after the exchange: bits equal in both processes, values those of eager."""
    eager = plain(train(1))[0]
    first, second = pair(trained, 2, compiled=True)
    assert (first[4], second[4]) == ("compiled", "compiled")
    assert close(first[0], eager, 1e-9)
    assert all(torch.equal(first[0][name], second[0][name]) for name in eager)


def poisoned(together=True, compiled=False):
    """One update of which one process sees an infinity: are the weights what they were, and where is the run?"""
    model = network()
    grad_fn = fnopt.accumulate(fnopt.value_and_grad(model, squared))
    grad_fn = fnopt.all_reduce(grad_fn) if together else grad_fn
    step = fnopt.make_step(grad_fn, fnopt.AdamW(1e-2), loss_scale=fnopt.DynamicLossScale())
    step = fnopt.compiled(step) if compiled else step
    state, metrics = step.step(step.init_state(model), share(2, data=dataset(bad=True)).at(0))
    same = all(torch.equal(state.params[name], leaf) for name, leaf in model.named_parameters())
    return same, int(state.updates), int(metrics["skipped"]), float(state.loss_scale["scale"])


@pytest.mark.parametrize("compiled", [False, True])
def test_an_infinity_in_one_process_skips_the_update_in_all(pair, compiled):
    """Every process keeps its bits and backs its loss scale off."""
    before = float(fnopt.DynamicLossScale().init_state({})["scale"])
    assert pair(poisoned, compiled=compiled) == [(True, 0, 1, before / 2)] * 2


def test_without_it_one_process_goes_on_alone(pair):
    """The control: the process that saw nothing of the infinity updates its weights."""
    one, other = pair(poisoned, together=False)
    assert (one[0], other[0]) == (True, False)


def patience():
    """The message after two updates in a row that all were skipped."""
    bad = TensorDataset(torch.full((SAMPLES, 3), torch.nan, dtype=torch.float64), dataset().tensors[1])
    with pytest.raises(NonFiniteError) as told:
        train(2, 5, data=bad)
    return str(told.value)


def test_all_give_up_at_the_same_update(pair):
    """A run in which no update is finite raises in every process, so none waits for another."""
    one, other = pair(patience)
    assert one == other
    assert "2 updates" in one or "2 steps" in one


def test_buffers_are_those_of_the_first(pair):
    """Statistics of BatchNorm follow the first process in all of them."""
    options = {"tail": "drop"}
    first, second = pair(trained, 2, model=network(nn.BatchNorm1d(4).double()), **options)
    assert first[1].keys() == second[1].keys() != set()
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


def seed():
    """What this process draws its dropout from, of the seed 7."""
    exchange = fnopt.all_reduce(fnopt.value_and_grad(network(nn.Dropout(0.5)), squared))
    return exchange.seed(7)


def test_each_process_draws_its_own_dropout(pair):
    """The first draws what a run alone would; the second something else."""
    first, second = pair(seed)
    assert first == 7 != second


def alone():
    """A run in a group of one's own."""
    groups = [dist.new_group([rank]) for rank in range(2)]
    model = network()
    own = fnopt.all_reduce(fnopt.value_and_grad(model, squared), group=groups[dist.get_rank()])
    state = fnopt.make_step(own, fnopt.SGD(0.1)).init_state(model)
    batch = tuple(tensor[dist.get_rank() :: 2] for tensor in dataset().tensors)
    graded, expected = own(state, batch), own.grad_fn(state, batch)
    return all(torch.equal(graded.grads[name], leaf) for name, leaf in expected.grads.items())


def test_a_group_of_one_changes_nothing(pair):
    """With group=, only the processes of that group are summed over."""
    assert pair(alone) == [True, True]


def test_a_run_goes_on_with_another_number_of_processes(pair):
    """Five updates of one process and seven of two are twelve of one."""
    state = train(1, 5)[0]
    first, _ = pair(trained, 2, state=state)
    assert close(first[0], train(1)[0].params)


def test_it_needs_a_process_group():
    """Without torch.distributed it says what to call."""
    step = fnopt.make_step(fnopt.all_reduce(fnopt.value_and_grad(network(), squared)), fnopt.SGD(0.1))
    with pytest.raises(UsageError, match=r"all_reduce: torch\.distributed has no process group"):
        step.step(step.init_state(network()), dataset()[:4])
    with pytest.raises(UsageError, match="grad_fn is 3"):
        fnopt.all_reduce(3)
