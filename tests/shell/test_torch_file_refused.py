"""Torch files that do not fit: named, and nothing is changed."""

import pytest
import torch
from checkpoint_cases import fields_of, fingerprint
from torch_file_cases import grads, net, trained

import fnopt
from fnopt import export_torch, load_checkpoint
from fnopt.checkpoint import torch_import
from fnopt.errors import (
    NonFiniteError,
    NotACheckpointError,
    StateMismatchError,
)
from fnopt.record import evolve


def changed(tmp_path, change, rule=None):
    """A file of AdamW, changed before it is saved."""
    model = net()
    optimizer = rule or fnopt.AdamW(lr=0.1)
    content = torch.load(
        export_torch(tmp_path / "a.pt", trained(optimizer, model), optimizer=optimizer), weights_only=True
    )
    change(content)
    torch.save(content, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def _drop(*path):
    def change(content):
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


def _put(value, *path):
    def change(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


STATE = ("optimizer", "state")
MISMATCHES = {
    "a param is missing": (_drop("model", "inner.bias"), "1 missing: params/inner.bias"),
    "a param more": (_put(torch.zeros(1), "model", "more"), "1 unexpected: params/more"),
    "another shape": (_put(torch.zeros(7, 7), "model", "inner.weight"), r"params/inner.weight \[7, 7\] not \[4, 4\]"),
    "another dtype": (_put(torch.zeros(4).half(), "model", "inner.bias"), "params/inner.bias float16 not float32"),
    "a moment of another shape": (_put(torch.zeros(7, 7), *STATE, 3, "exp_avg"), r"exp_avg/inner.weight \[7, 7\] not"),
    "a moment that broadcasts": (_put(torch.zeros(1), *STATE, 4, "exp_avg"), r"exp_avg/inner.bias \[1\] not \[4\]"),
    "a moment of ints": (_put(torch.zeros(4).int(), *STATE, 4, "exp_avg"), "exp_avg/inner.bias int32 not float32"),
    "a moment is missing": (_drop(*STATE, 0, "exp_avg_sq"), "1 missing: opt_state/exp_avg_sq/embed.weight"),
    "a moment more": (_put(torch.zeros(4), *STATE, 4, "momentum"), "1 unexpected: opt_state/momentum/inner.bias"),
    "all of a param is missing": (_drop(*STATE, 4), "2 missing: opt_state/exp_avg/inner.bias, opt_state/exp_avg_sq"),
    "a stranger": (_put({"exp_avg": torch.zeros(1)}, *STATE, 99), "unexpected: opt_state/exp_avg/parameter%2099"),
    "a step below 0": (_put(torch.tensor(-3.0), *STATE, 0, "step"), "1 clock: opt_state/step -3 not a count >= 0"),
    "a step that is none": (_put(torch.tensor(2.5), *STATE, 0, "step"), "opt_state/step 2.5 not a count"),
    "unequal steps": (_put(torch.tensor(9.0), *STATE, 0, "step"), "opt_state/step '3' and '9'|3 and 9"),
    "a position below 0": (_put(-1, "step"), "1 clock: position -1 not a step >= 0"),
    "a position that is none": (_put("many", "step"), "1 clock: position 'many' not"),
    "no optimizer": (_put(None, "optimizer"), r"10 missing: opt_state/exp_avg/embed.weight"),
    "an optimizer that is none": (_put([1, 2], "optimizer"), "optimizer that is no state_dict"),
    "groups and names apart": (
        _put(["a"], "optimizer", "param_groups", 0, "param_names"),
        "no state_dict",
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_what_does_not_fit_is_named_and_nothing_is_changed(case, tmp_path):
    """Names, shapes, dtypes and clocks of every part are checked before a tensor is copied."""
    change, text = MISMATCHES[case]
    path, like = changed(tmp_path, change), trained(fnopt.AdamW(lr=0.1), net(1), 1)
    before = fingerprint(like)
    with pytest.raises(StateMismatchError, match=text) as caught:
        load_checkpoint(path, like=like)
    assert caught.value.path == str(path)
    assert all(fields_of(caught.value)), fields_of(caught.value)
    assert fingerprint(like) == before


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    """SGD's memory is not taken for AdamW's, nor AdamW's for SGD's."""
    sgd = fnopt.SGD(lr=0.1, momentum=0.9)
    for mine, its in ((sgd, fnopt.AdamW(lr=0.1)), (fnopt.AdamW(lr=0.1), sgd)):
        path = changed(tmp_path, lambda content: None, its)
        with pytest.raises(StateMismatchError, match=r"missing: .*unexpected: .*with another optimizer"):
            load_checkpoint(path, like=trained(mine, net(1), 0))


def test_parameters_without_names_in_several_groups_are_refused(tmp_path):
    """By position, one group could be taken for the other."""

    def change(content):
        (group,) = content["optimizer"]["param_groups"]
        del group["param_names"]
        content["optimizer"]["param_groups"] = [{**group, "params": [0, 1]}, {**group, "params": [2, 3, 4]}]

    with pytest.raises(StateMismatchError, match=r"groups of \[2, 3\] parameters without names"):
        load_checkpoint(changed(tmp_path, change), like=trained(fnopt.AdamW(lr=0.1), net(1), 0))


def test_a_diverged_run_is_loaded_only_on_wish(tmp_path):
    """A nan in a moment is a NonFiniteError, unless it is allowed."""
    path = changed(tmp_path, _put(torch.full((4,), float("nan")), *STATE, 4, "exp_avg"))
    like = trained(fnopt.AdamW(lr=0.1), net(1), 0)
    with pytest.raises(NonFiniteError, match="opt_state/exp_avg/inner\\.bias"):
        load_checkpoint(path, like=like)
    assert load_checkpoint(path, like=like, allow_nonfinite=True).position == 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            {"state_dict": {"w": torch.zeros(1)}},
            r"with the keys \['state_dict'\], expected one with model",
        ),
        (torch.zeros(3), "a torch file with a Tensor in it"),
        ([1, 2], "a torch file with a list in it"),
        ({"model": torch.zeros(1)}, r"the keys \['model'\]"),
    ],
)
def test_another_layout_is_named(content, text, tmp_path):
    """A torch file that holds something else says what it holds, and what is expected."""
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(NotACheckpointError, match=text):
        load_checkpoint(tmp_path / "a.pt", like=trained(fnopt.AdamW(), net(), 0))


def test_loading_shares_nothing_with_like_or_the_file(tmp_path):
    """Every tensor of the result is its own, also what stays as in `like`."""
    like = evolve(
        trained(fnopt.AdamW(lr=0.1), net(1), 0), extra={"mine": torch.ones(2)}, loss_scale={"scale": torch.ones(())}
    )
    path = changed(tmp_path, lambda content: None)
    loaded = load_checkpoint(path, like=like)
    assert loaded.extra["mine"].data_ptr() != like.extra["mine"].data_ptr()
    assert torch.equal(loaded.extra["mine"], like.extra["mine"])
    assert all(leaf.untyped_storage().nbytes() == leaf.nbytes for leaf in loaded.params.values())


def test_matching_by_position_is_seen(tmp_path, monkeypatch):
    """Negative control: an import that goes by position takes parameters in another order for each other."""

    def swap(content):
        (group,) = content["optimizer"]["param_groups"]
        group["param_names"] = group["param_names"][::-1]
        group["params"] = group["params"][::-1]

    like, wanted = trained(fnopt.AdamW(lr=0.1), net(1), 0), trained(fnopt.AdamW(lr=0.1), net())
    assert fingerprint(load_checkpoint(changed(tmp_path, swap), like=like)) == fingerprint(wanted)
    by_name = torch_import.members_of

    def by_position(path, optimizer, like):
        (group,) = optimizer["param_groups"]
        names = list(like.params)
        return by_name(path, {**optimizer, "param_groups": [{**group, "param_names": names}]}, like)

    monkeypatch.setattr(torch_import, "members_of", by_position)
    with pytest.raises(StateMismatchError):
        load_checkpoint(changed(tmp_path, swap), like=like)
    assert grads(like.params, 0)
