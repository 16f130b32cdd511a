"""plateau: torch's ReduceLROnPlateau to the bit, as a pure function of a state."""

import pickle

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

import fnopt
from fnopt.schedules import plateau

nan, inf = float("nan"), float("inf")
metrics = st.one_of(
    st.sampled_from([0.0, 1.0, 1.0, 1.0, 2.0, -1.0, nan, inf, -inf]),
    st.floats(0.99, 1.01),
    st.floats(allow_nan=True, allow_infinity=True),
)
sequences = st.lists(metrics, max_size=40) | st.lists(st.sampled_from([0.9999, 1.0, nan]), min_size=10, max_size=40)
plans = st.builds(
    plateau,
    lr=st.floats(1e-9, 1.0),
    factor=st.floats(0.0, 0.99),
    patience=st.integers(0, 4),
    threshold=st.sampled_from([0.0, 1e-4, 0.1, 1.0, 2.0]),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    mode=st.sampled_from(["min", "max"]),
    cooldown=st.integers(0, 4),
    min_lr=st.sampled_from([0.0, 1e-3, 0.5]),
    eps=st.sampled_from([0.0, 1e-8, 0.01]),
)
laws = settings(max_examples=60)


def run(plan, seen):
    """The states before and after each metric."""
    states = [plan.init_state()]
    for metric in seen:
        states.append(plan.update(metric, states[-1]))
    return states


def same(a, b):
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)


def compare(plan, seen, theirs=None):
    """Value, best metric and both counters are torch's after every metric."""
    theirs = theirs or plan
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=theirs.lr)
    names = ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps")
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **{name: getattr(theirs, name) for name in names})
    for metric, state in zip([None, *seen], run(plan, seen), strict=True):
        if metric is not None:
            peer.step(metric)
        got = (plan.value(state).item(), state["best"].item(), state["bad"].item(), state["out"].item())
        assert got == (optimizer.param_groups[0]["lr"], peer.best, peer.num_bad_epochs, peer.cooldown_counter)


@settings(max_examples=200)
@given(plans, sequences)
def test_equals_torchs(plan, seen):
    """Over any sequence, also of nan and infinities, plateau has the bits of ReduceLROnPlateau."""
    compare(plan, seen)


def test_the_drawn_sequences_make_it_fall():
    """More than a third of the drawn cases have a fall, so that the comparison is not about constants."""
    falls = []

    @settings(max_examples=200, phases=[Phase.generate])
    @given(plans, sequences)
    def count(plan, seen):
        falls.append(bool(plan.value(run(plan, seen)[-1]) < plan.lr))

    count()
    assert sum(falls) > len(falls) / 3


@pytest.mark.parametrize("change", [{"patience": 1}, {"cooldown": 1}])
def test_a_count_that_is_one_off_is_found(change):
    """Negative control: a plateau that waits for one metric more than torch's is found."""

    @settings(max_examples=200, phases=[Phase.generate])
    @given(plans, sequences)
    def compared(plan, seen):
        late = fnopt.evolve(plan, **{name: getattr(plan, name) + by for name, by in change.items()})
        compare(late, seen, theirs=plan)

    with pytest.raises(AssertionError):
        compared()


def test_a_nan_that_counts_as_better_is_found(monkeypatch):
    """Negative control: `not (metric >= best)` is not torch's `metric < best`."""
    kind, right = plateau, plateau._better
    monkeypatch.setattr(kind, "_better", lambda self, metric, best: right(self, metric, best) | metric.isnan())
    with pytest.raises(AssertionError):
        compare(plateau(0.1, patience=1), [1.0, nan, nan, nan])


@laws
@given(plans, sequences)
def test_the_value_never_rises_and_keeps_above_its_floor(plan, seen):
    """It only falls, and not below the smaller of lr and min_lr."""
    curve = [plan.value(state).item() for state in run(plan, seen)]
    assert curve == sorted(curve, reverse=True)
    assert curve[-1] >= min(plan.lr, plan.min_lr)


@laws
@given(plans, sequences, metrics)
def test_update_is_pure_and_keeps_the_form_of_the_state(plan, seen, metric):
    """An update changes neither plan nor state, gives the same bits twice, and keeps names, dtypes and shapes."""
    state = run(plan, seen)[-1]
    before, plan_before = {key: leaf.clone() for key, leaf in state.items()}, pickle.loads(pickle.dumps(plan))
    new = plan.update(metric, state)
    assert same(new, plan.update(metric, state))
    assert same(state, before)
    assert plan == plan_before
    assert [(key, leaf.dtype, leaf.shape) for key, leaf in new.items()] == [
        (key, leaf.dtype, leaf.shape) for key, leaf in plan.init_state().items()
    ]
    storages = [leaf.untyped_storage().data_ptr() for leaf in plan.init_state().values()]
    assert len(set(storages)) == len(storages)


@laws
@given(plans, st.lists(st.lists(metrics, min_size=3, max_size=3), max_size=12))
def test_members_by_vmap_and_by_shape_are_a_loop(plan, rows):
    """Three plateaus by vmap, or by an lr of shape [3], have the bits of each alone."""
    rates = torch.tensor([plan.lr, plan.lr / 2, 1.0], dtype=torch.float64)
    many = fnopt.evolve(plan, lr=rates)
    shaped, mapped = many.init_state(), torch.vmap(lambda lr: fnopt.evolve(plan, lr=lr).init_state())(rates)
    for row in rows:
        metric = torch.tensor(row, dtype=torch.float64)
        mapped = torch.vmap(plan.update)(metric, mapped)
        shaped = many.update(metric, shaped)
    alone = [run(fnopt.evolve(plan, lr=rate), [row[i] for row in rows])[-1] for i, rate in enumerate(rates)]
    assert same(mapped, {key: torch.stack([state[key] for state in alone]) for key in mapped})
    assert same(shaped, mapped)


def test_one_metric_is_for_all_members():
    """A plateau of shape [3] takes one number as three equal ones, and keeps its shape."""
    plan = plateau(torch.tensor([1.0, 0.5, 0.1]), patience=0)
    one, three = plan.init_state(), plan.init_state()
    for metric in (1.0, 2.0, torch.tensor(2.0)):
        one, three = plan.update(metric, one), plan.update(torch.full((3,), float(metric)), three)
        assert same(one, three)
    assert one["lr"].shape == (3,)
    assert bool((one["lr"] < plan.lr).all())


@pytest.mark.parametrize(
    ("mode", "threshold_mode", "better", "worse"),
    [("min", "rel", 8.9, 9.1), ("min", "abs", 9.8, 9.95), ("max", "rel", 11.1, 10.9), ("max", "abs", 10.2, 10.05)],
)
def test_what_is_better_than_ten(mode, threshold_mode, better, worse):
    """With a threshold of 0.1, relative is a tenth of the best metric, absolute is 0.1."""
    plan = plateau(1.0, threshold=0.1, mode=mode, threshold_mode=threshold_mode)
    for metric, best in ((better, better), (worse, 10.0)):
        state = run(plan, [10.0, metric])[-1]
        assert state["best"] == best
        assert state["bad"] == int(best == 10.0)


def test_the_value_is_a_float64_and_counts_are_ints():
    """What is kept: the value and the best metric in float64, how many were bad and are left out in int64."""
    dtypes = {name: leaf.dtype for name, leaf in plateau(torch.tensor(0.1)).init_state().items()}
    assert dtypes == {"lr": torch.float64, "best": torch.float64, "bad": torch.int64, "out": torch.int64}


@pytest.mark.parametrize(("eps", "expected"), [(0.49, 0.5), (0.5, 1.0), (0.51, 1.0)])
def test_a_fall_by_eps_or_less_is_left_out(eps, expected):
    """From 1 to 0.5 the value falls by 0.5: so it does if that is more than eps."""
    plan = plateau(1.0, factor=0.5, patience=0, eps=eps)
    assert run(plan, [1.0, 1.0])[-1]["lr"] == expected


@settings(max_examples=15)
@given(plans, sequences)
def test_a_trace_on_fake_tensors_serves_every_metric(plan, seen):
    """One graph, recorded on fake tensors, makes every update."""
    state = plan.init_state()

    def update(metric, state):
        return plan.update(metric, state)

    graph = make_fx(update, tracing_mode="fake")(torch.tensor(0.0, dtype=torch.float64), state)
    for metric, expected in zip(seen, run(plan, seen)[1:], strict=True):
        state = graph(torch.tensor(metric, dtype=torch.float64), state)
        assert same(state, expected)


def test_no_graph_of_the_metric_is_kept():
    """A loss that requires grad leaves none in the state."""
    plan, loss = plateau(0.1), torch.ones((), requires_grad=True) * 2
    assert not any(leaf.requires_grad for leaf in plan.update(loss, plan.init_state()).values())


def test_gradient_by_factor():
    """The value is lr factor^falls, and can be differentiated by both."""
    seen = [1.0, 1.0, 1.0]

    def value(lr, factor):
        plan = plateau(lr, factor=factor, patience=0)
        return plan.value(run(plan, seen)[-1])

    lr, factor = torch.tensor([0.5, 0.1], dtype=torch.float64)
    by_lr, by_factor = torch.func.grad(value, argnums=(0, 1))(lr, factor)
    assert (by_lr.item(), by_factor.item()) == pytest.approx((0.1**2, 2 * 0.5 * 0.1))


def test_it_is_saved_and_resumed_with_the_run(tmp_path):
    """Kept in TrainState.extra, a run that stops between two metrics goes on to the same bits."""
    plan = plateau(0.1, factor=0.5, patience=1)
    grad_fn = fnopt.value_and_grad(lambda params, x: ((params["w"] - x).square().sum(), 1))
    bare = fnopt.make_step(grad_fn, fnopt.AdamW())

    def epoch(state, loss):
        step = fnopt.evolve(bare, optimizer=fnopt.evolve(bare.optimizer, lr=plan.value(state.extra)))
        state, metrics = step.step(state, torch.ones(3))
        return fnopt.evolve(state, extra=plan.update(loss, state.extra)), metrics["lr"].item()

    def begin():
        return fnopt.evolve(bare.init_state({"w": torch.zeros(3)}), extra=plan.init_state())

    seen, rates, straight, resumed = [1.0, 1.0, nan, 1.0, 1.0, 0.5], [], begin(), begin()
    for loss in seen:
        straight, rate = epoch(straight, loss)
        rates.append(rate)
        fnopt.save_checkpoint(tmp_path / "run.safetensors", resumed)
        resumed, _ = epoch(fnopt.load_checkpoint(tmp_path / "run.safetensors", like=begin()), loss)
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05, 0.025])
    assert resumed == straight
