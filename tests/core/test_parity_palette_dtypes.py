"""RMSprop, Adagrad, Adafactor, Muon and Lion in the other dtypes, one step at a time from the same state."""

import pytest
import torch
from test_parity_palette import COMBINATIONS, cases
from torch_peer import Peer, memories, same_bits

from fnopt import Adafactor, Adagrad, Lion, Muon, RMSprop, evolve

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = [RMSprop, Adagrad, Adafactor, Muon]
LR = 0.03


def flags_of(kind, **fixed):
    """Every combination of flags of a kind in which these have these values."""
    found = [flags for k, flags, _ in COMBINATIONS if k is kind]
    return [flags for flags in found if all(flags[name] == value for name, value in fixed.items())]


def steps_of(kind, flags, dtype, seed=3, steps=8, **drawn):
    """Each step of torch.optim and of fnopt from torch's state: yields params, state, gradients, and both results."""
    params, grads = cases(kind, flags, "float", seed, steps, dtype=dtype, **drawn)
    ours, peer = kind(lr=LR, **flags), Peer(kind, flags, params)
    for t, grad in enumerate(grads):
        params, state = peer.state(ours, t)
        new = ours.update(grad, state, params)
        peer.step(grad, LR)
        yield params, state, grad, list(memories(*new, peer))


@pytest.mark.parametrize("kind", KINDS)
def test_float64_equals_torch(kind):
    """In float64 all is torch's to the bit, but Adafactor's weights.

    Their coefficient is a tensor, and torch.addcmul rounds its product with the update, where torch's `add(alpha=)` is
    fused: half an ulp of the update, one of the result, and two of the update for the rounding of the coefficient.
    """
    u = 2.0**-53
    for flags in flags_of(kind):
        for params, _, _, results in steps_of(kind, flags, torch.float64):
            for what, name, mine, theirs in results:
                if what != "params" or kind is not Adafactor:
                    assert same_bits(mine, theirs), (flags, what, name)
                    continue
                update = (theirs - params[name] * (1 - LR * flags["weight_decay"])).abs()
                assert ((mine - theirs).abs() <= u * (5 * update + 2 * theirs.abs())).all(), (flags, name)


@pytest.mark.parametrize("kind", [RMSprop, Adagrad])
def test_complex_equals_torch_on_pairs_to_the_bit(kind):
    """A complex64 parameter is updated as the pair of its parts, to the bit of torch.optim on float32 pairs."""
    for flags in flags_of(kind):
        params, grads = cases(kind, flags, "float", 7, 8, dtype=torch.complex64)
        ours = kind(lr=LR, **flags)
        peer = Peer(kind, flags, {name: torch.view_as_real(p) for name, p in params.items()})
        state = ours.init_state(params)
        for grad in grads:
            params, state = ours.update(grad, state, params)
            peer.step({name: torch.view_as_real(g) for name, g in grad.items()}, LR)
            for what, name, mine, theirs in memories(params, state, peer):
                assert mine.dtype == torch.complex64
                assert same_bits(torch.view_as_real(mine), theirs), (flags, what, name)


@pytest.mark.parametrize("kind", [RMSprop, Adagrad])
def test_complex_equals_torch_to_the_bit(kind):
    """In complex64, without L2 (whose product torch rounds, where that of pairs is fused), all bits are torch's."""
    for flags in flags_of(kind, weight_decay=0.0):
        for _, _, _, results in steps_of(kind, flags, torch.complex64):
            assert all(same_bits(mine, theirs) for _, _, mine, theirs in results), flags


EVERY = [*KINDS, Lion]
LIONS = [{"betas": betas, "weight_decay": decay} for betas in [(0.9, 0.99), (0.0, 0.5)] for decay in (0.0, 0.1)]


def as_float32(tree):
    """The same pytree with what is half precision in float32."""
    if isinstance(tree, dict):
        return {name: as_float32(leaf) for name, leaf in tree.items()}
    return tree.float() if tree.dtype.itemsize == 2 else tree


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", EVERY)
def test_half_precision_is_float32_rounded_once(kind, dtype):
    """One step in half precision is, to the bit, that of float32 from the same numbers, rounded; dtypes stay."""
    for flags in LIONS if kind is Lion else flags_of(kind):
        params, grads = cases(kind, flags, "float", 5, 3, dtype=dtype, decades=1)
        ours = kind(lr=LR, **flags)
        state = ours.init_state(params)
        for grad in grads:
            wide, wide_state = ours.update(as_float32(grad), as_float32(state), as_float32(params))
            params, state = ours.update(grad, state, params)
            for what, mine, exact in [("params", params, wide), *((key, state[key], wide_state[key]) for key in state)]:
                for name, leaf in mine.items() if what != "step" else ():
                    assert leaf.dtype == dtype
                    assert same_bits(leaf, exact[name].to(dtype)), (flags, what, name)


def test_adafactors_own_epsilon_in_half_precision_is_that_of_float32():
    """eps1 = None is the machine epsilon of what is computed in; torch takes bfloat16's, 65,536 times as large."""
    params, grads = cases(Adafactor, {"weight_decay": 0.0}, "float", 5, 1, dtype=torch.bfloat16)
    ours = Adafactor(lr=LR)
    named = evolve(ours, eps=(torch.finfo(torch.float32).eps, 1e-3))
    other = evolve(ours, eps=(torch.finfo(torch.bfloat16).eps, 1e-3))
    new, same, torchs = (rule.update(grads[0], rule.init_state(params), params)[0] for rule in (ours, named, other))
    assert all(same_bits(new[name], same[name]) for name in params)
    assert not all(same_bits(new[name], torchs[name]) for name in params)


def half_ulp(x):
    """Half the distance of bfloat16 neighbours around x."""
    return 2.0 ** (torch.frexp(x.abs().clamp(min=2.0**-126)).exponent - 9)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_nearer_to_float64_than_torch(kind):
    """From the same bfloat16 state each of p and the memories is on average nearer to torch.optim in float64."""
    ours, torchs = {}, {}
    for flags in flags_of(kind):
        if kind is Adafactor and flags["eps"][0] is None:
            continue  # it depends on the dtype, see above
        for params, state, grad, results in steps_of(kind, flags, torch.bfloat16, steps=4, decades=1):
            exact = Peer(kind, flags, {name: p.double() for name, p in params.items()})
            held = {what: {k: v.double() for k, v in m.items()} for what, m in state.items() if what != "step"}
            exact.load({**held, "step": state["step"]})
            exact.step({name: g.double() for name, g in grad.items()}, LR)
            for what, name, mine, theirs in results:
                best = (exact.leaves if what == "params" else exact.memory(what))[name].detach()
                old = params[name] if what == "params" else state[what][name]
                # where terms cancel, an ulp of what is left of them would measure chance
                unit = half_ulp(torch.maximum(best.abs(), old.double().abs()))
                for errors, x in ((ours, mine), (torchs, theirs)):
                    errors.setdefault(what, []).append(((x.double() - best).abs() / unit).flatten())
    for what, errors in ours.items():
        mine, theirs = torch.cat(errors).mean().item(), torch.cat(torchs[what]).mean().item()
        assert mine <= theirs < float("inf"), (what, mine, theirs)
