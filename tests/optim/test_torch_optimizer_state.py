"""What a TorchOptimizer remembers: saved, copied, and for parameters that miss some steps."""

import copy
import io
import pickle

import pytest
import torch
from contract_cases import differs
from pure_cases import VARIANTS, by_hand, every, gradients, mismatch, module, run

import fnopt
from fnopt import SGD, AdamW, AddNoise, ClipNorm, ScaleByAdam, chain, ema, lookahead
from fnopt.optim import TorchOptimizer

pytestmark = pytest.mark.usefixtures("one_thread")
EVERY = every()


def over(pure, model=None):
    """The adapter over a module, and the module."""
    model = module() if model is None else model
    return TorchOptimizer(model.named_parameters(), pure), model


@pytest.mark.parametrize("place", range(len(EVERY)))
def test_state_dict_round_trip(place):
    """Saved through torch.save and loaded with weights_only into a new one, the run goes on to the bit; twice."""
    (whole, model), (first, other) = over(EVERY[place]), over(EVERY[place])
    run(whole, model, range(6))
    for start in (0, 2, 4):
        run(first, other, range(start, start + 2))
        file = io.BytesIO()
        torch.save({"model": other.state_dict(), "optimizer": first.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        first, other = over(EVERY[place])
        run(first, other, range(9, 10))  # it had a life of its own
        other.load_state_dict(saved["model"])
        first.load_state_dict(saved["optimizer"])
    assert mismatch(other, {name: param.detach() for name, param in model.items()}) is None
    assert differs(first.state_dict(), whole.state_dict()) is None


@pytest.mark.parametrize("place", range(len(EVERY)))
def test_copies_go_on(place):
    """A deep copy, and one through pickle, of a running optimizer with its module go on to the bit."""
    whole, model = over(EVERY[place])
    run(whole, model, range(3))
    copies = [copy.deepcopy((whole, model)), pickle.loads(pickle.dumps((whole, model)))]
    run(whole, model, range(3, 5))
    for optimizer, other in copies:
        run(optimizer, other, range(3, 5))
        assert mismatch(other, {name: param.detach() for name, param in model.items()}) is None
        assert differs(optimizer.state_dict(), whole.state_dict()) is None


SHARED = {
    "noise": chain(AddNoise(0.1, seed=2), SGD(0.1)),
    "noise inside": ema(chain(AddNoise(0.1, seed=2), SGD(0.1))),
    "schedule free": fnopt.ScheduleFree(SGD(0.1)),
    "lookahead": VARIANTS["lookahead"][0],
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("rule", SHARED)
def test_what_a_state_holds_once_keeps_its_dtype(rule, strict):
    """Keys, counts and sums of a state (int64, float64) have their dtype and bits after a load, as before."""
    pure = SHARED[rule]
    optimizer, model = over(pure)
    run(optimizer, model, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    other, _ = over(pure)
    other.load_state_dict(copy.deepcopy(saved), strict=strict)
    loaded = other.state_dict()["state"]
    assert loaded.keys() == saved["state"].keys()
    assert all(differs(loaded[key], state) is None for key, state in saved["state"].items())
    dtypes = {leaf.dtype for state in saved["state"].values() for leaf in state.values()}
    assert dtypes & {torch.int64, torch.float64}


ELSEWHERE = {
    "sgd": SGD(0.1, momentum=0.9),
    "adamw": chain(ClipNorm(1000.0), AdamW(0.1)),
    "ema": ema(AdamW(0.1)),
    "lookahead": lookahead(SGD(0.1), k=2),
    "scale by adam": chain(ScaleByAdam(), SGD(0.1)),
    "muon": fnopt.Muon(0.1),
    "noise": chain(AddNoise(0.1), SGD(0.1)),
    "noise inside": ema(chain(AddNoise(0.1), SGD(0.1))),
}


@pytest.mark.parametrize("rule", ELSEWHERE)
def test_a_parameter_does_not_see_who_else_has_a_gradient(rule):
    """Where no transform mixes parameters, a parameter that misses steps stays, and changes no bit of the others."""
    (whole, model), (gaps, other) = over(ELSEWHERE[rule]), over(ELSEWHERE[rule])
    run(whole, model, range(4))
    before = other["a"].detach().clone()
    for time in range(4):
        for name, grad in gradients(time).items():
            other[name].grad = None if name == "a" else grad
        gaps.step()
    assert torch.equal(other["a"], before)
    assert mismatch({name: other[name] for name in "bc"}, model) is None


@pytest.mark.parametrize("rule", ["sgd", "adamw", "ema", "lookahead", "muon"])
def test_a_parameter_has_a_clock_of_its_own(rule):
    """One that begins two steps later is updated as one that is alone with its gradients."""
    optimizer, model = over(ELSEWHERE[rule])
    alone = module(("a",))
    params, _ = by_hand(ELSEWHERE[rule], alone, 3)
    for time in range(-2, 3):
        for name, grad in gradients(max(time, 0)).items():
            model[name].grad = None if name == "a" and time < 0 else grad
        optimizer.step()
    assert torch.equal(model["a"], params["a"])
    assert not torch.equal(model["a"], alone["a"])
