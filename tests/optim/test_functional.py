"""To the functional world and back, to torch and back: each way in mid-run, and the run goes on to the bit."""

import copy

import pytest
import torch
from contract_cases import differs, draw
from hypothesis import given, settings
from hypothesis import strategies as st
from strict_cases import FLAGS, NAMES, SEVEN, by_names, look, made, network, train, trained

import fnopt
from fnopt import SGD, AdamW, AddNoise, ClipNorm, ScaleByAdam, chain, ema, freeze, lookahead, optim, partition
from fnopt.errors import StructureError, UsageError

pytestmark = pytest.mark.usefixtures("one_thread")
LABELS = dict(zip(NAMES, "aba", strict=True))
PARTS = {"a": SGD(0.1, momentum=0.9), "b": ema(AdamW(0.01))}
RULES = {
    "scale by adam": chain(ScaleByAdam(), ClipNorm(1.0), SGD(0.1, momentum=0.9)),
    "noise": chain(AddNoise(0.1, seed=3), SGD(0.1)),
    "two noises": chain(AddNoise(0.1, seed=3), ClipNorm(1.0), AddNoise(0.2, seed=4), AdamW(0.1)),
    "ema": ema(AdamW(0.01), 0.9),
    "lookahead": lookahead(SGD(0.1, momentum=0.9), k=2),
    "lookahead of ema": lookahead(ema(chain(ScaleByAdam(), SGD(0.1)), 0.9), k=3),
    "schedule": chain(ClipNorm(1.0), AdamW(fnopt.warmup_cosine(0.1, warmup=2, total=10))),
    "schedule free": fnopt.ScheduleFree(SGD(0.1)),
    "lion": fnopt.Lion(0.01),
    "partition": chain(ScaleByAdam(), partition(PARTS, LABELS)),
    "freeze": freeze(AdamW(0.1), "second"),
}
GROUPED = ("scale by adam", "noise", "two noises", "ema", "lookahead", "lookahead of ema", "lion")


def over(rule, model, count=1):
    """A TorchOptimizer of that rule over the model, in one or two groups."""
    named = list(model.named_parameters())
    return optim.TorchOptimizer(named if count == 1 else [{"params": named[:1]}, {"params": named[1:]}], RULES[rule])


def updated(pure, state, params, times):
    """The pure run on the gradients of `train`."""
    for time in times:
        grads = {name: 0.3 * p + draw(p.shape, 2, sum(map(ord, name)), time) for name, p in params.items()}
        params, state = pure.update(grads, state, params)
    return state, params


def assert_round_trip(make):
    """Steps 2 to 4 in the functional world, all others here: the same bits as all of them here."""
    (whole, model), (split, other) = ((make(model), model) for model in (network(), network()))
    train(whole, model, range(7))
    train(split, other, range(2))
    before = look(split, other)
    pure, state, params = split.functional()
    state, params = updated(pure, state, params, range(2, 5))
    assert differs(look(split, other), before) is None  # what was handed out are copies
    split.load_functional(state, params)
    kept = copy.deepcopy((state, params))
    train(split, other, range(5, 7))
    assert differs((state, params), kept) is None  # and what was taken in is copied
    assert differs(by_names(split, other), by_names(whole, model)) is None
    assert differs(split.state_dict(), whole.state_dict()) is None


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", SEVEN)
def test_round_trip_of_torchs_rules(name, count):
    """Each of torch's rules continues to the bit after steps in the functional world: weights and whole state_dict."""
    assert_round_trip(lambda model: made(name, count=count, model=model)[0])


@pytest.mark.parametrize("rule", RULES)
def test_round_trip_of_pure_optimizers(rule):
    """Transforms with state, wrappers and schedules continue to the bit, too."""
    assert_round_trip(lambda model: over(rule, model))


@pytest.mark.parametrize("rule", GROUPED)
def test_round_trip_of_pure_optimizers_in_two_groups(rule):
    """Two groups become the two parts of a partition, and come back."""
    assert_round_trip(lambda model: over(rule, model, count=2))


@pytest.mark.parametrize("rule", RULES)
def test_functional_continues_a_fresh_optimizer(rule):
    """Before the first step there is a functional world, too: all steps there are those of here."""
    (here, model), (there, _) = ((over(rule, model), model) for model in (network(), network()))
    train(here, model, range(4))
    _, params = updated(*there.functional(), range(4))
    weights = dict(model.named_parameters())
    assert weights.keys() - params.keys() == ({"second"} if rule == "freeze" else set())  # nobody updates it
    for name, param in params.items():
        assert torch.equal(param, weights[name]), name


def test_without_names_parameters_go_by_number():
    """Parameters without names have their numbers for names, over all groups, and come back."""
    models = [network(), network()]
    here, there = (
        optim.AdamW([{"params": listed[:1]}, {"params": listed[1:]}])
        for listed in (list(model.parameters()) for model in models)
    )
    assert list(there.functional()[2]) == ["0", "1", "2"]
    grads = [[draw(p.shape, 5, time, place) for place, p in enumerate(models[0].parameters())] for time in range(3)]
    pure, state, params = there.functional()
    for drawn in grads:
        params, state = pure.update(dict(zip("012", drawn, strict=True)), state, params)
        for param, grad in zip(models[0].parameters(), drawn, strict=True):
            param.grad = grad
        here.step()
    there.load_functional(state, params)
    assert differs(there.state_dict(), here.state_dict()) is None
    assert differs(list(models[1].parameters()), list(models[0].parameters())) is None


@pytest.mark.parametrize("name", ["AdamW", "Adam", "RMSprop", "Adagrad", "Adafactor"])
def test_unequal_numbers_of_updates_are_refused(name):
    """Parameters that missed different steps have no one clock: StructureError that says how many each had."""
    optimizer, model = trained(name, steps=2)
    model["second"].grad = None
    optimizer.step()
    with pytest.raises(StructureError, match=r"first had 3, second had 2, third had 3.*param groups"):
        optimizer.functional()
    grouped, model = made(name, count=2)  # first in a group of its own
    model["first"].grad = torch.ones_like(model["first"])
    grouped.step()
    assert len(grouped.functional()[2]) == 3


def test_wrong_params_are_refused():
    """Params of other names or shapes are a StructureError that names them, and nothing has changed."""
    optimizer, model = trained("AdamW")
    before = look(optimizer, model)
    _, state, params = optimizer.functional()
    for wrong, text in (
        ({**params, "fourth": params["first"]}, "fourth"),
        ({"first": params["first"]}, "second"),
        ({**params, "first": params["first"][:2]}, r"'first' has shape \[2, 3\], expected \[4, 3\]"),
    ):
        with pytest.raises(StructureError, match=text):
            optimizer.load_functional(state, wrong)
    assert differs(look(optimizer, model), before) is None


def test_the_state_of_another_rule_is_refused():
    """A state that another optimizer made is an error, and nothing has changed."""
    optimizer, model = trained("AdamW")
    _, state, params = trained("RMSprop")[0].functional()
    before = look(optimizer, model)
    with pytest.raises(StructureError):
        optimizer.load_functional(state, {name: torch.zeros_like(p) for name, p in params.items()})
    assert differs(look(optimizer, model), before) is None


@settings(max_examples=70)
@given(
    name=st.sampled_from(SEVEN),
    count=st.sampled_from([1, 2]),
    cuts=st.lists(st.integers(0, 8), min_size=4, max_size=4).map(sorted),
    first=st.booleans(),
)
def test_conversions_at_any_step(name, count, cuts, first):
    """Four conversions at random steps, from torch and to it in turn, change no bit of torch's uninterrupted run."""
    whole, model = made(name, count=count, module=torch.optim)
    train(whole, model, range(9))
    running, other = made(name, count=count, module=torch.optim if first else optim)
    done = 0
    for cut in cuts:
        train(running, other, range(done, cut))
        ours = isinstance(running, optim.TorchOptimizer)
        running, done = (optim.to_torch if ours else optim.from_torch)(running), cut
        assert type(running) is getattr(torch.optim if ours else optim, name)
    train(running, other, range(done, 9))
    assert differs(by_names(running, other), by_names(whole, model)) is None
    assert differs(running.state_dict(), whole.state_dict()) is None


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("name", SEVEN)
def test_a_conversion_is_a_copy(name, back):
    """What becomes of the state and the groups of the converted optimizer, the original does not notice."""
    original, model = trained(name, module=optim if back else torch.optim)
    before = copy.deepcopy(original.state_dict())
    converted = optim.to_torch(original) if back else optim.from_torch(original)
    for param, leaf in model.named_parameters():
        assert any(leaf is p for group in converted.param_groups for p in group["params"]), param
    train(converted, model, range(3, 6))
    converted.param_groups[0]["lr"] = 0.5
    converted.param_groups[0]["params"].pop()
    assert differs(original.state_dict(), before) is None


@pytest.mark.parametrize("name", SEVEN)
def test_a_converted_optimizer_takes_a_scheduler_and_a_state(name):
    """After a conversion a scheduler of torch, saving, loading and a new group work as on any optimizer."""
    theirs, model = trained(name, module=torch.optim, lr=0.5)
    ours = optim.from_torch(theirs)
    scheduler = torch.optim.lr_scheduler.StepLR(ours, 1, gamma=0.5)
    train(ours, model, range(1))
    scheduler.step()
    assert ours.param_groups[0]["lr"] == 0.25
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()), strict=name != "Adafactor")
    ours.add_param_group({"params": [("fourth", torch.nn.Parameter(torch.ones(2, 2)))]})
    assert [group["lr"] for group in ours.param_groups] == [0.5, 0.5]
    assert FLAGS[name].items() <= ours.param_groups[1].items()


@pytest.mark.parametrize("kind", [torch.optim.ASGD, torch.optim.LBFGS, torch.optim.NAdam])
def test_a_rule_without_a_counterpart(kind):
    """Another optimizer of torch is a UsageError that lists the known ones, and so is one that is no torch rule."""
    model = network()
    with pytest.raises(UsageError, match=rf"got {kind.__name__}, expected .*AdamW.*Muon"):
        optim.from_torch(kind(model.parameters()))
    with pytest.raises(UsageError, match=r"got TorchOptimizer, expected .*optim.AdamW"):
        optim.to_torch(over("lion", model))
    with pytest.raises(UsageError, match="got AdamW"):
        optim.from_torch(optim.AdamW(model.parameters()))
