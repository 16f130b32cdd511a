"""Every exported optimizer and transform where no values can be read, on two devices, under another default dtype."""

import pytest
import torch
from law_things import exports, things
from torch._subclasses.fake_tensor import FakeTensorMode

import fnopt
from fnopt.grads import Graded
from fnopt.rules.describe import leaf_rules

ROWS = [
    pytest.param(thing.made, names, id=f"{name}{place}")
    for name in exports()
    for place, thing in enumerate(things(name))
    if hasattr(thing.made, "update") or hasattr(thing.made, "transform")
    for names in [list(thing.drawn.get("names", "ab"))]
    if all(owned for _, _, owned in leaf_rules(thing.made, names))  # a part without params has no device to follow
]
TWO = ["lazy:0", "lazy:1"]  # fake tensors may say that they are anywhere, and refuse to meet those from elsewhere


def matrices(names, devices=("meta",), dtypes=(torch.float32,)):
    """Params, or gradients, on one device after the other, in one dtype after the other."""
    pairs = {name: (devices[i % len(devices)], dtypes[i % len(dtypes)]) for i, name in enumerate(names)}
    return {name: torch.ones(2, 3, device=device, dtype=dtype) for name, (device, dtype) in pairs.items()}


def places(tree):
    """Where all tensors of a nested dict live."""
    return {
        place for leaf in tree.values() for place in (places(leaf) if isinstance(leaf, dict) else {str(leaf.device)})
    }


def one_step(made, params, state):
    return (getattr(made, "update", None) or made.transform)(dict(params), state, params)


@pytest.mark.parametrize(("made", "names"), ROWS)
def test_no_rule_reads_a_value_or_leaves_the_device(made, names):
    """On the meta device, which has no values to read, init_state and updates run, and every result lives there."""
    params = matrices(names)
    state = made.init_state(params)
    for _ in range(2):
        assert places(state) <= {"meta"}
        result, state = one_step(made, params, state)
        assert places(result) == {"meta"}
    assert places(state) <= {"meta"}


@pytest.mark.parametrize(("made", "names"), ROWS)
def test_leaves_may_live_on_two_devices(made, names):
    """Each parameter is updated where it lives, and its memory is there; clocks and metrics are with the first one."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        params = matrices(names, TWO, [torch.float32, torch.float64])
        state = made.init_state(params)
        for _ in range(2):
            result, state = one_step(made, params, state)
            assert [leaf.device for leaf in result.values()] == [leaf.device for leaf in params.values()]
        assert places(state) <= {*TWO}
        for path, leaf in leaves(state):
            expected = params[path[-1]] if path[-1] in params else first_of(made, names, params, path)
            assert leaf.device == expected.device, path


def leaves(tree, path=()):
    for key, value in tree.items():
        yield from leaves(value, (*path, key)) if isinstance(value, dict) else [((*path, key), value)]


def first_of(made, names, params, path):
    """The first parameter of the part that a place in a state is of."""
    owned = next((owned for label, _, owned in leaf_rules(made, names) if label and label in path), names)
    return params[owned[0]]


@pytest.fixture
def double_by_default():
    """Whatever says no dtype is float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize(("made", "names"), ROWS)
def test_the_default_dtype_means_nothing(made, names, dtype, request):
    """Under another default dtype every result and every state has the same bits and dtypes."""
    if dtype.is_complex and isinstance(made, fnopt.Adafactor | fnopt.Muon):
        return
    plain = list(run_of(made, matrices(names, ["cpu"], [dtype])))
    request.getfixturevalue("double_by_default")
    assert list(run_of(made, matrices(names, ["cpu"], [dtype]))) == plain


def run_of(made, params):
    """Dtype and values of every leaf of state and result, from the first state to that after two updates."""
    result, state = {}, made.init_state(params)
    for _ in range(3):
        for path, leaf in (*leaves(result), *leaves(state)):
            yield path, leaf.dtype, leaf.tolist()
        result, state = one_step(made, params, state)


@pytest.mark.parametrize("rule", [fnopt.StaticLossScale(8.0), fnopt.DynamicLossScale(8.0)])
def test_a_loss_scale_lives_where_params_live(rule):
    """The state of a loss scale is on the device of params, float32 and int64, 0-d, before and after an update."""
    state = rule.init_state(matrices("a"))
    yes = torch.ones((), dtype=torch.bool, device="meta")
    for _ in range(2):
        assert places(state) == {"meta"}
        assert {name: (leaf.dtype, leaf.ndim) for name, leaf in state.items()} == {
            "scale": (torch.float32, 0),
            "good": (torch.int64, 0),
            "skipped": (torch.int64, 0),
            "skipped_in_a_row": (torch.int64, 0),
        }
        state = rule.update(state, yes, yes)


def test_a_plateau_lives_where_its_numbers_live():
    """The state of a plateau is on the device of the first tensor among its numbers, before and after a metric."""
    plan = fnopt.plateau(0.1, factor=torch.tensor(0.5, device="meta"), cooldown=1)
    state = plan.init_state()
    for metric in (1.0, torch.ones((), device="meta")):
        assert places(state) == {"meta"}
        state = plan.update(metric, state)
    assert places(state) == {"meta"}


def made_step(device):
    """A step whose gradients are its params, and whose loss is elsewhere if `device` is."""

    def grad_fn(state, _):
        loss = torch.ones((), device=device)
        return Graded(dict(state.params), loss, loss, {}, {"n": loss}, torch.zeros_like(loss, dtype=torch.int64))

    optimizer = fnopt.chain(fnopt.ClipNorm(1.0), fnopt.NanToZero(), fnopt.Tap("tap"), fnopt.AdamW(fnopt.constant(0.1)))
    accumulated = fnopt.accumulate(grad_fn, drop_nonfinite=True)
    return fnopt.make_step(accumulated, optimizer, loss_scale=fnopt.DynamicLossScale(8.0))


def test_a_step_reads_no_value():
    """A step with clipping, loss scale and accumulation runs on the meta device, and its results live there."""
    step = made_step("meta")
    new, metrics = step.step(step.init_state(matrices("ab")), [0, 1])
    for tree in (new.params, new.opt_state, new.loss_scale, metrics):
        assert places(tree) == {"meta"}


def test_a_step_over_two_devices():
    """Parameters on two devices, the loss on the first: each is updated where it lives, metrics are with the loss."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        step = made_step(TWO[0])
        state = step.init_state(matrices("ab", TWO))
        new, metrics = step.step(state, [0, 1])
        assert [str(leaf.device) for leaf in new.params.values()] == TWO
        assert places(metrics) == places(new.loss_scale) == {TWO[0]}
