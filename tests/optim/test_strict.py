"""load_state_dict(strict=True) refuses what does not fit, says all of why, and has changed nothing then."""

import copy
import re

import pytest
import torch
from contract_cases import differs
from hypothesis import given, settings
from hypothesis import strategies as st
from strict_cases import MOMENT, NAMES, SEVEN, assert_untouched, look, made, network, saved, train, trained

from fnopt.errors import StateMismatchError

pytestmark = pytest.mark.usefixtures("one_thread")


def reorder(state, moment):
    names = state["param_groups"][0]["param_names"]
    state["state"][0], state["state"][2] = state["state"][2], state["state"][0]
    names[0], names[2] = names[2], names[0]
    state["param_groups"][0]["params"].reverse()


def rename(state, moment):
    state["param_groups"][0]["param_names"][1] = "stranger"


def reshape(state, moment):
    state["state"][1][moment] = state["state"][1][moment].new_ones(2, 7)


def recast(state, moment):
    state["state"][0][moment] = state["state"][0][moment].double()


def drop_entry(state, moment):
    del state["state"][1]


def drop_moment(state, moment):
    del state["state"][0][moment]


def add_moment(state, moment):
    state["state"][1]["stray"] = state["state"][1][moment].clone()


def lose_parameter(state, moment):
    state["param_groups"][0]["params"].pop()
    state["param_groups"][0]["param_names"].pop()
    del state["state"][2]


DAMAGES = {
    reorder: "numbered [2, 1, 0]",
    rename: "unexpected: stranger",
    reshape: "has shape [2, 7]",
    recast: "is torch.float64",
    drop_entry: "second: no state",
    drop_moment: "lacks ['{moment}']",
    add_moment: "stray",
    lose_parameter: "missing: third",
}


def refused(optimizer, model, state, **more):
    """The problems for which this state is refused; nothing has changed."""
    before, given_state = look(optimizer, model), copy.deepcopy(state)
    with pytest.raises(StateMismatchError) as caught:
        optimizer.load_state_dict(state, strict=True, **more)
    assert_untouched(before, look(optimizer, model))
    assert differs(state, given_state) is None
    return caught.value.problems


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", SEVEN)
def test_a_damaged_state_is_refused(name, damage):
    """Each kind of damage is named, and nothing has changed: no weight, state, group or hook."""
    state, moment = saved(name), MOMENT[name]
    damage(state, moment)
    problems = refused(*trained(name, steps=5), state)
    assert any(DAMAGES[damage].format(moment=moment) in problem for problem in problems), problems


@pytest.mark.parametrize("name", SEVEN)
def test_an_untouched_state_loads(name):
    """Negative control: the same state without damage is taken, bit by bit."""
    optimizer, model = trained(name, steps=5)
    state = saved(name)
    optimizer.load_state_dict(copy.deepcopy(state), strict=True)
    assert differs(optimizer.state_dict(), state) is None
    train(optimizer, model, range(2))


@pytest.mark.parametrize("theirs", SEVEN)
@pytest.mark.parametrize("mine", SEVEN)
def test_the_state_of_another_class_is_refused(mine, theirs):
    """A state made by any other of the seven classes is refused, with a reason; by the same one it loads."""
    optimizer, model = trained(mine)
    if mine == theirs:
        optimizer.load_state_dict(saved(theirs), strict=True)
    else:
        assert refused(optimizer, model, saved(theirs))


def test_all_damages_are_listed():
    """Several damages at once are all listed, in the error's problems and, one to a line, in its message."""
    optimizer, model = trained("AdamW")
    state = saved("AdamW")
    for damage in (reshape, recast, drop_moment):
        damage(state, "exp_avg")
        state["state"][0].setdefault("exp_avg", state["state"][2]["exp_avg"].T.clone())
    state["state"][2]["step"] = torch.tensor(-1.0)
    rename(state, "exp_avg")
    state["param_groups"][0]["lr"] = -1.0
    problems = refused(optimizer, model, state)
    for text in ("unexpected: stranger", "missing: second", "first: exp_avg", "third: step is -1.0", "lr"):
        assert any(text in problem for problem in problems), (text, problems)
    with pytest.raises(StateMismatchError, match=r"AdamW; nothing was changed") as caught:
        optimizer.load_state_dict(state, strict=True)
    assert all(f"\n  {problem}" in str(caught.value) for problem in problems)


def test_many_damages_are_counted_in_the_message():
    """More than 20 problems are all in `problems`, and the message counts those that it leaves out."""
    model = network([f"p{place}" for place in range(30)])
    optimizer, _ = made("AdamW", model=model)
    state = saved("AdamW", model=network([f"q{place}" for place in range(30)]))
    with pytest.raises(StateMismatchError, match="and 40 more") as caught:
        optimizer.load_state_dict(state, strict=True)
    assert len(caught.value.problems) == 60


@pytest.mark.parametrize("damage", [reorder, rename, reshape, recast, drop_entry, drop_moment, add_moment])
def test_torch_takes_damaged_states(damage):
    """Negative control: what is refused here is what torch's own load takes without a word."""
    optimizer, _ = made("AdamW", module=torch.optim)
    state = saved("AdamW")
    damage(state, "exp_avg")
    optimizer.load_state_dict(state)


@pytest.mark.parametrize("mine", ["AdamW", "SGD"])
def test_torch_takes_states_of_other_classes(mine):
    """Negative control: torch's load takes an Adagrad's state into any other class."""
    made(mine, module=torch.optim)[0].load_state_dict(saved("Adagrad"))


BAD_NUMBERS = [
    ("lr", -1.0),
    ("betas", (0.9, 1.5)),
    ("lr", "fast"),
    ("eps", float("nan")),
    ("betas", (0.9,)),
    ("lr", None),
]


@pytest.mark.parametrize(("key", "value"), BAD_NUMBERS)
def test_bad_hyperparameters_are_refused(key, value):
    """A number out of range, or no number, is a problem that names it; with keep_hyperparameters nobody reads it."""
    optimizer, model = trained("AdamW")
    state = saved("AdamW")
    state["param_groups"][0][key] = value
    assert any(key in problem for problem in refused(optimizer, model, copy.deepcopy(state)))
    optimizer.load_state_dict(state, strict=True, keep_hyperparameters=True)


def test_a_missing_hyperparameter_is_refused():
    """A group without lr is refused, and the problem says so."""
    state = saved("AdamW")
    del state["param_groups"][0]["lr"]
    assert any("lacks ['lr']" in problem for problem in refused(*trained("AdamW"), state))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", SEVEN)
def test_a_moment_that_is_not_finite_is_refused(name, value):
    """A nan or an infinity in a moment is a problem that names parameter and moment."""
    state = saved(name)
    state["state"][2][MOMENT[name]].view(-1)[0] = value
    (problem,) = refused(*trained(name), state)
    assert re.search(f"third: {MOMENT[name]} .*not finite", problem)


@pytest.mark.parametrize("step", [-1.0, float("nan"), 2.5, float("inf")])
def test_a_step_that_is_no_count_is_refused(step):
    """A clock that is negative, a fraction or not finite is a problem, as a tensor and as a number."""
    for value in (step, torch.tensor(step)):
        state = saved("Adam")
        state["state"][1]["step"] = value
        (problem,) = refused(*trained("Adam"), state)
        assert "second: step" in problem


@pytest.mark.parametrize("step", ["many", None, torch.ones(2)])
def test_a_step_of_another_kind_is_refused(step):
    """A clock that is no number at all is a problem, too, and no other error."""
    state = saved("Adam")
    state["state"][1]["step"] = step
    assert any("second" in problem for problem in refused(*trained("Adam"), state))


def test_states_of_unknown_parameters_are_refused():
    """A state under a number that no parameter has is a problem."""
    state = saved("SGD")
    state["state"][17] = state["state"][0]
    assert any("[17]" in problem for problem in refused(*trained("SGD"), state))


@settings(max_examples=50)
@given(
    name=st.sampled_from(SEVEN),
    where=st.integers(0, 2),
    which=st.integers(0, 3),
    damage=st.sampled_from(["longer", "flat", "recast", "missing", "none", "a list", "nan"]),
)
def test_damage_to_any_one_leaf_is_found(name, where, which, damage):
    """Whichever tensor of a state gets another shape, dtype or kind, a nan, or is gone: the load is refused for it."""
    state = saved(name)
    held = state["state"][where]
    key = [key for key in held if key != "step"][which % (len(held) - ("step" in held))]
    leaf = held.pop(key)
    changes = {
        "longer": torch.cat([leaf, leaf]),
        "flat": leaf[0],
        "recast": leaf.bfloat16(),
        "a list": leaf.tolist(),
        "nan": leaf * torch.nan,
        "none": None,
    }
    if damage != "missing":
        held[key] = changes[damage]
    (problem,) = refused(*trained(name, steps=1), state)
    assert problem.startswith(NAMES[where])
    assert key in problem


@pytest.mark.parametrize("what", [None, [], {"state": {}}, {"param_groups": []}, {"state": {}, "param_groups": []}])
def test_what_is_no_state_dict_is_refused(what):
    """Something else than a dict with state and param_groups is a StateMismatchError like any other."""
    optimizer, model = trained("AdamW")
    before = look(optimizer, model)
    with pytest.raises((StateMismatchError, TypeError, AttributeError)) as caught:
        optimizer.load_state_dict(what, strict=True)
    assert isinstance(caught.value, StateMismatchError) or not isinstance(what, dict)
    assert_untouched(before, look(optimizer, model))
