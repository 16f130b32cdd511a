"""chain, partition, freeze, ema, clipping and describe: wholes that change no bit of their parts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fnopt import SGD, AdamW, ClipNorm, ClipValue, chain, describe, ema, freeze, partition
from fnopt.errors import StructureError
from fnopt.record import same
from fnopt.tensors import global_norm
from fnopt.transforms.chain import eval_params
from fnopt.types import GradTransform, Optimizer

SHAPES = {"a.weight": (3, 2), "a.bias": (2,), "b.weight": (2, 2), "scale": ()}
LABELS = {"a.weight": "slow", "a.bias": "fast", "b.weight": "slow", "scale": "fast"}
seeds = st.integers(0, 2**32)


def draw(seed, steps=4, scale=1.0):
    """Params, and the gradients of a few steps."""
    gen = torch.Generator().manual_seed(seed)
    drawn = [{n: torch.randn(shape, generator=gen) * scale for n, shape in SHAPES.items()} for _ in range(steps + 1)]
    return drawn[0], drawn[1:]


def train(optimizer, params, steps):
    state = optimizer.init_state(params)
    for grads in steps:
        params, state = optimizer.update(grads, state, params)
    return params, state


c, v, s = ClipNorm(1.0), ClipValue(0.5), SGD(0.1, momentum=0.9)


def test_chain_is_a_monoid_as_values():
    """However parts are grouped, the chain is the same value; the empty chain changes nothing."""
    flat = chain(c, v, s)
    assert flat == chain(chain(c), chain(v, s)) == chain(chain(c, v), s) == chain(c, chain(chain(v), chain(s)))
    assert chain(chain(), c, chain(), s) == chain(c, s)
    assert chain(chain(c, v), chain()) == chain(c, v)
    assert hash(flat) == hash(chain(c, chain(v, s)))
    assert chain(c, v) != chain(v, c)
    assert isinstance(flat, Optimizer)
    assert isinstance(chain(c, v), GradTransform)
    params, (grads, *_) = draw(0)
    passed, state = chain().transform(grads, chain().init_state(params), params)
    assert passed == grads
    assert state == {}


@given(seeds)
def test_chain_is_its_parts_one_after_another(seed):
    """A chain gives the bits of transform, transform, update by hand, and the states of its parts."""
    params, steps = draw(seed, steps=1)
    clipped, c_state = c.transform(steps[0], c.init_state(params), params)
    clamped, v_state = v.transform(clipped, v.init_state(params), params)
    new, s_state = s.update(clamped, s.init_state(params), params)
    whole, state = train(chain(c, v, s), params, steps)
    assert same(whole, new)
    assert same(state, {"ClipNorm": c_state, "ClipValue": v_state, "SGD": s_state})


def test_state_keys_are_stable_names():
    """A state is keyed by class names, the second of a name with a suffix; regrouping moves no key."""
    params, _ = draw(0)
    for grouped in (chain(c, v, c, s), chain(chain(c, v), chain(c, s)), chain(c, chain(v, c), s)):
        assert list(grouped.init_state(params)) == ["ClipNorm", "ClipValue", "ClipNorm_2", "SGD"]
    assert list(chain(c, c, c).init_state(params)) == ["ClipNorm", "ClipNorm_2", "ClipNorm_3"]


def test_chain_refuses_the_state_of_another_chain():
    """A state with other parts is an error that lists both."""
    params, (grads, *_) = draw(0)
    for other in (chain(v, s), chain(c, s), chain(v, c, s)):
        with pytest.raises(StructureError, match=r"has parts .*, expected \['ClipNorm', 'ClipValue', 'SGD'\]"):
            chain(c, v, s).update(grads, other.init_state(params), params)


@given(seeds)
def test_partition_equals_separate_runs(seed):
    """Each part of a partition gives the bits of a run of its own on its parameters; keys stay in order."""
    params, steps = draw(seed)
    parts = {"slow": AdamW(0.01), "fast": s}
    new, state = train(partition(parts, LABELS), params, steps)
    assert list(new) == list(params)
    for tag, part in parts.items():
        owned = [{n: leaf for n, leaf in tensors.items() if LABELS[n] == tag} for tensors in (params, *steps)]
        alone, alone_state = train(part, owned[0], owned[1:])
        assert same({n: new[n] for n in alone}, alone)
        assert same(state[tag], alone_state)


def test_partition_names_what_does_not_fit():
    """Labels without optimizer, params without label and labels without params are errors that list them."""
    params, _ = draw(0)
    with pytest.raises(StructureError, match=r"no optimizer for the labels \['fast'\]; there is one for \['slow'\]"):
        partition({"slow": s}, LABELS)
    both = partition({"slow": s, "fast": s}, LABELS)
    with pytest.raises(StructureError, match=r"without a label \['x'\], labels without a parameter \['scale'\]; make"):
        both.init_state({**{n: p for n, p in params.items() if n != "scale"}, "x": torch.ones(1)})
    with pytest.raises(StructureError, match="partition: grads and params have different names"):
        both.update({}, both.init_state(params), params)


@given(seeds, st.floats(0.01, 10.0))
def test_clipping_inside_a_part_sees_that_part_only(seed, bound):
    """In front of a partition ClipNorm measures all gradients, inside a part only those of the part."""
    params, (grads, *_) = draw(seed, steps=1)
    plain, clip = SGD(1.0), ClipNorm(bound)
    outside = chain(clip, partition({"slow": plain, "fast": plain}, LABELS))
    inside = partition({"slow": chain(clip, plain), "fast": plain}, LABELS)
    slow = {n: g for n, g in grads.items() if LABELS[n] == "slow"}
    (all_new, state), (slow_new, slow_state) = train(outside, params, [grads]), train(inside, params, [grads])
    expected = [min(1.0, bound / float(global_norm(tensors))) for tensors in (grads, slow)]
    coefs = [float(where["ClipNorm"]["metrics"]["clip_coef"]) for where in (state, slow_state["slow"])]
    assert coefs == pytest.approx(expected, rel=1e-6)
    for n, g in grads.items():
        assert torch.allclose(all_new[n], params[n] - coefs[0] * g, rtol=1e-5, atol=1e-6)
        assert torch.allclose(slow_new[n], params[n] - (coefs[1] if n in slow else 1.0) * g, rtol=1e-5, atol=1e-6)


@given(seeds, st.floats(0.1, 50.0))
def test_clip_norm_agrees_with_torch(seed, bound):
    """Above the bound the result is torch's to 1e-6 relative, below it no bit changes."""
    params, (grads, *_) = draw(seed, steps=1, scale=5.0)
    leaves = {n: nn.Parameter(p) for n, p in params.items()}
    for n, leaf in leaves.items():
        leaf.grad = grads[n].clone()
    norm = nn.utils.clip_grad_norm_(leaves.values(), bound, foreach=False)
    clipped, state = ClipNorm(bound).transform(grads, ClipNorm(bound).init_state(params), params)
    if norm <= bound:
        assert same(clipped, grads)
        assert float(state["metrics"]["clip_coef"]) == 1.0
    else:
        # torch divides by norm + 1e-6, which is 1e-6 / norm of the result; then the roundings of either
        for n, g in clipped.items():
            assert torch.allclose(g, leaves[n].grad, rtol=1e-6 / bound + 1e-6, atol=0.0)
        assert float(global_norm(clipped)) == pytest.approx(bound, rel=1e-6)


@given(seeds, st.floats(0.0, 1.0), st.booleans())
def test_ema_is_the_average_of_the_weights(seed, decay, scheduled):
    """The average is decay e + (1 - decay) p from e_0 = p_0, in float64 to roundings; training is not changed."""
    params, steps = draw(seed)
    rate = (lambda step: decay / (1.0 + step.double())) if scheduled else decay
    average = {n: p.double() for n, p in params.items()}
    trained, state, inner = params, ema(s, rate).init_state(params), s.init_state(params)
    plain = params
    for t, grads in enumerate(steps):
        trained, state = ema(s, rate).update(grads, state, trained)
        plain, inner = s.update(grads, inner, plain)
        d = decay / (1.0 + t) if scheduled else decay
        average = {n: d * average[n] + (1 - d) * p.double() for n, p in trained.items()}
    assert same(trained, plain)
    assert same(state["optimizer"], inner)
    for n, e in ema(s, rate).eval_params(state, trained).items():
        # per step: the coefficient, the difference, the product and the sum
        largest = max(float(p.abs().max()) for p in (params[n], trained[n], average[n])) + 4.0
        assert (e.double() - average[n]).abs().max() <= len(steps) * 4 * 2**-24 * largest


def test_ema_of_half_precision_is_kept_in_float32():
    """An average of bf16 weights moves by less than a bf16 step, and is handed out in bf16."""
    optimizer, params = ema(SGD(1.0), 0.999), {"w": torch.ones(1, dtype=torch.bfloat16)}
    new, state = train(optimizer, params, [{"w": torch.ones(1, dtype=torch.bfloat16)}])
    assert state["ema"]["w"].item() == pytest.approx(0.999, rel=1e-6)
    assert optimizer.eval_params(state, new)["w"].dtype == torch.bfloat16


def test_eval_params_is_found_wherever_the_ema_stands():
    """chain, partition and freeze hand eval_params on; parts without an average evaluate what they train."""
    params, steps = draw(1)
    average = ema(SGD(0.1), 0.5)
    alone, alone_state = train(average, params, steps)
    expected = average.eval_params(alone_state, alone)
    for whole in (chain(average), chain(ClipNorm(1e9), average), freeze(chain(average)), chain(freeze(average))):
        new, state = train(whole, params, steps)
        assert same(eval_params(whole, state, new), expected)
    mixed = partition({"slow": chain(average), "fast": freeze(SGD(0.1), "scale")}, LABELS)
    new, state = train(mixed, params, steps)
    for n, leaf in eval_params(mixed, state, new).items():
        assert same(leaf, expected[n] if LABELS[n] == "slow" else new[n])
    assert eval_params(s, s.init_state(params), params) == params


@given(seeds)
def test_freeze_updates_nothing_and_remembers_nothing(seed):
    """Frozen parameters keep their very tensors and have no memory; the others get the bits of a run without them."""
    params, steps = draw(seed)
    optimizer = freeze(AdamW(0.1, weight_decay=0.5), "a.*", "scale")
    new, state = train(optimizer, params, steps)
    assert all((new[n] is params[n]) == (n != "b.weight") for n in params)
    assert list(state["exp_avg"]) == list(state["exp_avg_sq"]) == ["b.weight"]
    alone = [{"b.weight": tensors["b.weight"]} for tensors in (params, *steps)]
    unfrozen, own_state = train(optimizer.optimizer, alone[0], alone[1:])
    assert same(new["b.weight"], unfrozen["b.weight"])
    assert same(state, own_state)
    with pytest.raises(StructureError, match=r"freeze: \['c.*'\] match no parameter; names are \['a.weight', "):
        freeze(SGD(), "a.*", "c.*").init_state(params)


def test_scope_is_the_widest_of_the_parts():
    """A whole is packable as its least packable part; a stranger that does not say is a leaf."""

    class Stranger:
        def init_state(self, params): ...
        def transform(self, grads, state, params): ...

    assert (chain(v, s).scope, chain(c, s).scope, chain().scope) == ("element", "global", "element")
    assert chain(c, Stranger(), s).scope == freeze(ema(chain(Stranger(), s)), "a").scope == "leaf"
    assert partition({"slow": chain(c, s), "fast": s}, LABELS).scope == ema(chain(c, s)).scope == "global"


TABLE = """\
slow: AdamW(lr=0.1, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, amsgrad=False, maximize=False)
  2 tensors, 2,500 numbers
    a.weight  [50, 50]  float32
    b         [0]  float32
fast: <sgd>
  1 tensor, 1 numbers
    scale  []  bfloat16
none: <sgd>
  0 tensors, 0 numbers
frozen: never updated
  1 tensor, 2 numbers
    a.bias  [2]  float32"""


def test_describe_lists_who_updates_what():
    """Each rule with its hyperparameters and what it owns, whatever it is wrapped in; the frozen ones come last."""
    params = {"a.weight": torch.ones(50, 50), "a.bias": torch.ones(2), "scale": torch.ones(()).bfloat16()}
    params["b"] = torch.ones(0)
    labels = {"a.weight": "slow", "a.bias": "fast", "scale": "fast", "b": "slow"}
    fast = freeze(SGD(0.5), "a.bias")
    whole = ema(partition({"slow": chain(ClipNorm(1.0), AdamW(0.1)), "fast": fast, "none": SGD(0.5)}, labels))
    assert describe(whole, params) == TABLE.replace("<sgd>", repr(SGD(0.5)))
