"""The other dtypes against torch.optim, one step at a time from the same state: within tolerances derived here."""

from itertools import product

import pytest
import torch
from torch_peer import Peer, draw, memories, same_bits

from fnopt import SGD, Adam, AdamW

ADAM = [
    {"betas": betas, "eps": eps, "weight_decay": decay, "amsgrad": amsgrad, "maximize": amsgrad}
    for betas, eps, decay, amsgrad in product([(0.9, 0.999), (0.5, 0.0)], [1e-8, 1e-3], [0.0, 0.1], [False, True])
]
MOMENTUM = [{}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.6}, {"momentum": 0.9, "nesterov": True}]
DESCENT = [
    {**momentum, "weight_decay": decay, "maximize": up}
    for momentum, decay, up in product(MOMENTUM, [0.0, 0.1], [False, True])
]
CASES = [(kind, flags) for kind in (AdamW, Adam) for flags in ADAM] + [(SGD, flags) for flags in DESCENT]
LR = 0.03
MEMORIES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def one_step_pairs(kind, flags, dtype, steps, **drawn):
    """Each step of torch.optim and of fnopt from torch's state: yields the state, the gradients and both results."""
    ours = kind(lr=LR, **flags)
    params, grads = draw(seed=7, dtype=dtype, steps=steps, **drawn)
    peer = Peer(kind, flags, params)
    for t, grad in enumerate(grads):
        params, state = peer.state(ours, t)
        new = ours.update(grad, state, params)
        peer.step(grad, LR)
        yield params, state, grad, list(memories(*new, peer))


@pytest.mark.parametrize(("kind", "flags"), CASES)
def test_float64_equals_torch_to_two_ulp(kind, flags):
    """In float64 the state is torch's to the bit, and so are SGD's weights; Adam's within 2 ulp of p."""
    for params, _, _, results in one_step_pairs(kind, flags, torch.float64, steps=40):
        for what, name, mine, theirs in results:
            if what != "params" or kind is SGD:
                assert same_bits(mine, theirs)
                continue
            # torch takes v ** 0.5 and fnopt sqrt(v), neighbours at most; at worst the correction, eps, the quotient and
            # the sum round them apart, 5 ulp of max(|p|, |update|), which b2 = 0 can reach, where |update| >> lr
            size = torch.stack([params[name].abs(), theirs.abs(), (theirs - params[name]).abs()]).amax(0).clamp(min=LR)
            ulp = 2.0 ** (torch.frexp(size).exponent - 53)
            assert ((mine - theirs).abs() <= (2 if flags["betas"][1] else 5) * ulp).all()


@pytest.mark.parametrize(("kind", "flags"), CASES)
def test_complex_equals_torch_on_pairs_to_the_bit(kind, flags):
    """A complex64 parameter is updated as the pair of its parts, to the bit of torch.optim on float32 pairs."""
    params, grads = draw(seed=7, dtype=torch.complex64, steps=40)
    ours = kind(lr=LR, **flags)
    peer, state = (
        Peer(kind, flags, {name: torch.view_as_real(p) for name, p in params.items()}),
        ours.init_state(params),
    )
    for grad in grads:
        params, state = ours.update(grad, state, params)
        peer.step({name: torch.view_as_real(g) for name, g in grad.items()}, LR)
        for _, _, mine, theirs in memories(params, state, peer):
            assert mine.dtype == torch.complex64
            assert same_bits(torch.view_as_real(mine), theirs)


@pytest.mark.parametrize(("kind", "flags"), [case for case in CASES if case[0] is AdamW or not case[1]["weight_decay"]])
def test_complex_equals_torch(kind, flags):
    """In complex64 AdamW, and Adam without L2, are torch's to the bit; SGD differs by roundings.

    torch adds alpha times a complex tensor with complex arithmetic: the product is rounded, where a fused operation on
    pairs is rounded once. So each of the at most four additions of SGD differs by at most 3 u of its operands' sizes.
    """
    u = 2.0**-24
    for params, state, grad, results in one_step_pairs(kind, flags, torch.complex64, steps=40):
        for what, name, mine, theirs in results:
            if kind is not SGD:
                assert same_bits(mine, theirs)
                continue
            p, g = params[name].abs(), grad[name].abs()
            b = state["momentum_buffer"][name].abs() + g if flags.get("momentum") else g
            size = p + LR * (g + b) if what == "params" else b
            assert ((mine - theirs).abs() <= 4 * 3 * u * size).all()


def exact(kind, flags, g, t, p, m, v, v_max):
    """One step of AdamW or Adam in float64, and what float32 arithmetic may add to each result.

    u is half an ulp of float32. m: its coefficient, the difference and the fused sum, 4 u of |m| + |g|. v: sums of
    non-negative terms, 4 u of itself. The update: half of v's error, five roundings and three of rounded coefficients,
    12 u of itself, and the error of m in it. p: coefficient, product and sum, 4 u of |p| and one of the update.
    """
    u, (b1, b2), decay = 2.0**-24, flags["betas"], flags["weight_decay"]
    p, g, m, v = p.double(), g.double(), m.double(), v.double()
    g = -g if flags["maximize"] else g
    slack_g = 0.0
    if kind is Adam:
        g, slack_g = g + decay * p, 2 * u * (g.abs() + decay * p.abs())
    slack_m = 4 * u * (m.abs() + g.abs()) + slack_g
    slack_v = (2 * g.abs() + slack_g) * slack_g
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    slack_v = slack_v + 4 * u * v
    top = v if v_max is None else torch.maximum(v_max.double(), v)
    root, correction = top.sqrt(), (1 - b2**t) ** 0.5
    denominator, size = root / correction + flags["eps"], LR / (1 - b1**t)
    update = size * m / denominator
    slack_p = 4 * u * p.abs() + 13 * u * update.abs() + size * slack_m / denominator
    slack_p = slack_p + update.abs() * slack_v / (root.clamp(min=1e-30) * correction * denominator)
    new = p * (1 - LR * decay if kind is AdamW else 1.0) - update
    results = {"params": (new, slack_p), "exp_avg": (m, slack_m), "exp_avg_sq": (v, slack_v)}
    return results if v_max is None else {**results, "max_exp_avg_sq": (top, slack_v)}


def half_ulp(x, dtype):
    """Half the distance of neighbours in `dtype` around x."""
    info = torch.finfo(dtype)
    smallest = torch.tensor(info.tiny, dtype=torch.float64)
    exponent = torch.frexp(torch.maximum(x.abs(), smallest)).exponent - 1
    return 2.0**exponent * info.eps / 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [AdamW, Adam])
def test_half_precision_is_rounded_once(kind, dtype):
    """From the same state each of p, m, v is the exact result rounded once; torch.optim is further off on average."""
    ours, torchs = {}, {}
    # a small v is 0 in fp16: then torch divides by eps alone, and overflows if that is small
    for flags in [flags for flags in ADAM if flags["eps"] == 1e-3 or dtype == torch.bfloat16]:
        steps = one_step_pairs(kind, flags, dtype, steps=15, decades=1)
        for t, (params, state, grad, results) in enumerate(steps, start=1):
            for what, name, mine, theirs in results:
                if not mine.numel():
                    continue
                old = {"params": params[name], **{memory: state[memory].get(name) for memory in MEMORIES}}
                expected, slack = exact(kind, flags, grad[name], t, *old.values())[what]
                error = (mine.double() - expected).abs()
                assert mine.dtype == dtype
                assert (error <= half_ulp(expected, dtype) + slack).all(), (flags, what, name)
                # where terms cancel, an ulp of what is left of them would measure chance
                unit = half_ulp(torch.maximum(expected.abs(), old[what].double().abs()), dtype)
                ours.setdefault(what, []).append((error / unit).flatten())
                torchs.setdefault(what, []).append(((theirs.double() - expected).abs() / unit).flatten())
    for what, errors in ours.items():
        mine, theirs = torch.cat(errors).mean().item(), torch.cat(torchs[what]).mean().item()
        assert mine <= theirs, (what, mine, theirs)
