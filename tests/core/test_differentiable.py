"""Gradients of training: finite, right, and without a trace in the forward bits, by every number of every rule."""

import gc

import attrs
import pytest
import torch
from hypergradient_cases import ALL, F64, RULES, as_tensors, data, numbers, objective, owner, put, train, value_at
from torch import Tensor

import fnopt.rules.adamw
from fnopt import SGD, Adafactor, AdamW

pytestmark = pytest.mark.usefixtures("one_thread")
TABLE = [(name, path) for name, rule in RULES.items() for path in numbers(rule)]
FLAT = {("Lion", "betas"), ("ScheduleFree of AdamW", "weight_lr_power")}  # under a sign; where all rates are equal
MUON = [("Muon", ("optimizers", "a", "lr")), ("Muon", ("optimizers", "a", "weight_decay"))]


def quotient(value, at, h=1e-6):
    """The central difference, and what it may be off by: h^2 f''' / 6, and 2^-53 |f| / h = 1e-10 |f|."""
    high, low = value(at + h), value(at - h)
    slope = (high - low) / (2 * h)
    return slope, 1e-6 * max(1.0, abs(float(slope)), abs(float(high)))


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize(
    ("name", "path"), [*TABLE, *MUON], ids=lambda part: part if isinstance(part, str) else ".".join(map(str, part))
)
def test_hypergradients_are_difference_quotients(name, path, silent):
    """By each number of each rule: the derivative through four updates, also where second moments stay exactly 0."""
    rule, (params, forces, heard) = ALL[name], data(silent=silent)
    pull = 0.0 if name == "Muon" else 0.3

    def value(x):
        return objective(train(put(rule, path, x), params, forces, heard, pull))

    at = value_at(rule, path)
    slope, forward = torch.func.grad_and_value(value)(at)
    expected, slack = quotient(value, at)
    assert abs(slope - expected) <= slack
    assert forward == value(at)
    leaf = at.clone().requires_grad_()
    (same,) = torch.autograd.grad(value(leaf), leaf)  # without a transform
    assert torch.allclose(same, slope, rtol=1e-9, atol=1e-12)


def test_the_table_is_complete(capsys):
    """By every number of every exported rule a gradient is checked, and none of these is cut off."""
    with capsys.disabled():
        print(f"\ngradients of training: {len(RULES)} optimizers, by {len(TABLE)} numbers and by all initial params")
    for name, path in TABLE:
        params, run = value_at(RULES[name], path), data()
        slope = torch.func.grad(lambda x: objective(train(put(RULES[name], path, x), *run)))(params)
        assert (slope.abs() > 1e-9) == ((name, path[0]) not in FLAT), (name, path)
    rules = {thing for thing in vars(fnopt).values() if attrs.has(thing) and thing.__module__.startswith("fnopt.rules")}
    wanted = {(rule.__name__, field.name) for rule in rules - {fnopt.Muon} for field in attrs.fields(rule)}
    flags = {"maximize", "nesterov", "decoupled_weight_decay", "amsgrad", "centered", "optimizer"}
    checked = {owner(RULES[name], path) for name, path in TABLE}
    assert {(rule, field) for rule, field in wanted - checked if field not in flags} == {("Adafactor", "eps")}  # static


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_gradients_of_initial_params_are_difference_quotients(name, silent):
    """By every entry of the weights at the beginning: what meta-learning of an initialization follows."""
    rule, (params, forces, heard) = RULES[name], data(silent=silent)
    slopes = torch.func.grad(lambda params: objective(train(rule, params, forces, heard)))(params)
    for key, p in params.items():
        for place in range(p.numel()):

            def value(x, key=key, place=place, p=p):
                moved = p.reshape(-1).index_put((torch.tensor([place]),), x).reshape(p.shape)
                return objective(train(rule, {**params, key: moved}, forces, heard))

            expected, slack = quotient(value, p.reshape(-1)[place])
            assert abs(slopes[key].reshape(-1)[place] - expected) <= slack, (key, place)


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["floats", "tensors"])
@pytest.mark.parametrize("name", ALL)
def test_differentiation_changes_no_forward_bit(name, kind, dtype):
    """The weights have the same bits under func.grad, under autograd, and without; all derivatives are finite.

    A row, an entry and a scalar have gradients of exactly 0 from the first step on, so moments that stay 0.
    """
    rule, (params, forces, heard) = ALL[name], data(dtype, silent=True)
    rule = as_tensors(rule) if kind == "tensors" else rule
    plain = train(rule, params, forces, heard)

    def value(params):
        results = train(rule, params, forces, heard)
        return objective(results), results

    slopes, inside = torch.func.grad(value, has_aux=True)(params)
    live = {key: p.clone().requires_grad_() for key, p in params.items()}
    loss, outside = value(live)
    loss.backward()
    for mine, functional, classic in zip(plain, inside, outside, strict=True):
        for key, leaf in mine.items():
            assert torch.equal(leaf, functional[key])
            assert torch.equal(leaf, classic[key].detach())
    assert all(slope.isfinite().all() for slope in slopes.values())
    assert all(leaf.grad.isfinite().all() for leaf in live.values())


def test_the_true_derivative_of_the_root_is_noticed(monkeypatch):
    """Negative control: with torch's own sqrt the gradient of training is nan where a second moment is exactly 0."""
    monkeypatch.setattr(fnopt.rules.adamw, "sqrt", torch.sqrt)
    with pytest.raises(AssertionError):
        test_differentiation_changes_no_forward_bit("AdamW", "floats", torch.float32)


def test_a_state_that_is_cut_off_is_noticed():
    """Negative control: an average that begins with detached weights has another gradient of the initial ones."""

    class Cut(type(RULES["ema"])):
        def init_state(self, params):
            state = super().init_state(params)
            return {**state, "ema": {key: leaf.detach() for key, leaf in state["ema"].items()}}

    params, forces, heard = data()
    ours = RULES["ema"]

    def slopes(rule):
        return torch.func.grad(lambda params: objective(train(rule, params, forces, heard)))(params)

    cut = Cut(ours.optimizer, ours.decay)
    assert not any(torch.allclose(slopes(cut)[key], slopes(ours)[key]) for key in params)


def living():
    """How many tensors there are."""
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def meta_loop(outer_steps, detach, rule):
    """Learn a learning rate by gradient descent through three updates at a time; the counts of tensors at two times."""
    params, forces, heard = data()
    state, lr, counts = rule.init_state(params), torch.tensor(0.05, dtype=F64), []
    for step in range(outer_steps):
        lr = lr.detach().requires_grad_()
        for force in forces[:3]:
            grads = {name: (force[name] + p) * heard[name] for name, p in params.items()}
            params, state = put(rule, ("lr",), lr).update(grads, state, params)
        loss = sum(p.square().sum() for p in params.values())
        (slope,) = torch.autograd.grad(loss, lr, retain_graph=not detach)
        lr = (lr - 1e-4 * slope).clamp(min=1e-4)
        if detach:
            params = {name: p.detach() for name, p in params.items()}
            state = torch.utils._pytree.tree_map(lambda leaf: leaf.detach(), state)
        if step in (outer_steps // 10, outer_steps - 1):
            counts.append(living())
    return counts


@pytest.mark.parametrize(
    "rule",
    [SGD(0.1, momentum=0.9), AdamW(0.1), Adafactor(0.1)],
    ids=lambda rule: type(rule).__name__,
)
def test_a_meta_loop_that_detaches_does_not_grow(rule):
    """After 200 outer steps there are as many tensors as after 20."""
    early, late = meta_loop(200, True, rule)
    assert early == late


def test_a_meta_loop_that_keeps_its_graph_is_noticed():
    """Negative control: without detaching, the count of tensors grows with each outer step."""
    early, late = meta_loop(40, False, SGD(0.1, momentum=0.9))
    assert late > early + 36
