"""Torch files: what fnopt exports, torch goes on with to the bit, and the other way round."""

import errno
import zipfile

import pytest
import torch
from checkpoint_cases import fingerprint, left_in
from manager_cases import Failing
from torch_file_cases import RULES, net, torch_steps, trained, updated

import fnopt
from fnopt import CheckpointWarning, export_torch, load_checkpoint
from fnopt.errors import (
    CheckpointWriteError,
    StructureError,
    UsageError,
)
from fnopt.record import evolve

KEYS = ["model", "optimizer", "scheduler", "epoch", "step", "best_val_loss"]


def class_of(rule):
    return getattr(torch.optim, type(rule).__name__)


@pytest.mark.parametrize("name", RULES)
def test_torch_goes_on_to_the_bit(name, tmp_path):
    """A module and an optimizer of torch that load the file make the updates that the pure rule would have made."""
    rule, model = RULES[name], net()
    state = trained(rule, model)
    content = torch.load(export_torch(tmp_path / "a.pt", state, model=model, optimizer=rule), weights_only=True)
    other = net(1)
    other.load_state_dict(content["model"])
    named = dict(other.named_parameters())
    optimizer = class_of(rule)(named.values(), foreach=False)
    optimizer.load_state_dict(content["optimizer"])
    torch_steps(optimizer, named, (3, 4, 5))
    for seed in (3, 4, 5):
        state = updated(rule, state, seed)
    assert {n: torch.equal(p, state.params[n]) for n, p in named.items()} == dict.fromkeys(named, True)


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("name", RULES)
def test_fnopt_goes_on_to_the_bit(name, named, tmp_path):
    """A state that was loaded from a file of torch alone makes the updates that torch would have made."""
    rule, model = RULES[name], net()
    flags = ("lr", "weight_decay", "momentum", "nesterov", "centered", "amsgrad", "maximize", "lr_decay")
    values = {flag: getattr(rule, flag) for flag in flags if hasattr(rule, flag)}
    params = dict(model.named_parameters())
    optimizer = class_of(rule)(model.named_parameters() if named else model.parameters(), foreach=False, **values)
    torch_steps(optimizer, params, (0, 1, 2))
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 7, "config": {"lr": 0.1}}
    torch.save(content, tmp_path / "a.pt")
    with pytest.warns(CheckpointWarning, match=r"1 buffers fewer than this state \(cache\)"):
        state = load_checkpoint(tmp_path / "a.pt", like=trained(rule, net(1), 0))
    assert (state.position, int(state.updates), state.seed) == (7, 7 if "SGD" in name else 3, 5)
    torch_steps(optimizer, params, (3, 4, 5))
    for seed in (3, 4, 5):
        state = updated(rule, state, seed)
    assert {n: torch.equal(p, state.params[n]) for n, p in params.items()} == dict.fromkeys(params, True)


COMPOSED = {
    "chain": lambda labels: fnopt.chain(fnopt.ClipNorm(1.0), fnopt.AdamW(lr=0.1)),
    "partition": lambda labels: fnopt.partition(
        {"decay": fnopt.AdamW(lr=0.1, weight_decay=0.1), "no_decay": fnopt.AdamW(lr=0.1, weight_decay=0.0)}, labels
    ),
    "freeze": lambda labels: fnopt.freeze(fnopt.chain(fnopt.ClipNorm(1.0), fnopt.Adam(lr=0.1)), "norm.*"),
    "schedule": lambda labels: fnopt.SGD(lr=fnopt.cosine(0.1, 9), momentum=0.9),
}


@pytest.mark.parametrize("name", [*RULES, *COMPOSED])
def test_load_after_export_is_identity(name, tmp_path):
    """Params, buffers, memory and clocks come back to the bit; without a model all buffers are in the file."""
    model = net()
    optimizer = RULES[name] if name in RULES else COMPOSED[name](fnopt.decay_labels(model))
    state = trained(optimizer, model)
    path = export_torch(tmp_path / "a.pt", state, optimizer=optimizer, epoch=2, best_val_loss=0.5)
    loaded = load_checkpoint(path, like=trained(optimizer, net(1), 0))
    clip = state.opt_state.get("ClipNorm")
    reports = {} if clip is None else {"opt_state": {**state.opt_state, "ClipNorm": loaded.opt_state["ClipNorm"]}}
    assert fingerprint(loaded) == fingerprint(evolve(state, **reports))
    content = torch.load(path, weights_only=True)
    assert list(content) == KEYS
    assert (content["epoch"], content["step"], content["best_val_loss"]) == (2, 3, 0.5)


def test_groups_have_the_numbers_of_now(tmp_path):
    """Each update rule is a group, with the names of its parameters, and its schedules as numbers."""
    model = net()
    rule = fnopt.AdamW(lr=fnopt.linear(1.0, 0.0, steps=10), weight_decay=0.1)
    optimizer = fnopt.partition({"decay": rule, "no_decay": evolve(rule, weight_decay=0.0)}, fnopt.decay_labels(model))
    averaged = fnopt.chain(fnopt.ClipNorm(1.0), fnopt.ema(fnopt.lookahead(optimizer)))
    path = export_torch(tmp_path / "a.pt", trained(averaged, model), model=model, optimizer=averaged)
    groups = torch.load(path, weights_only=True)["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == [pytest.approx(0.7)] * 2
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert groups[0]["param_names"] == ["embed.weight", "inner.weight"]


def test_the_model_part_is_its_state_dict(tmp_path):
    """With a model there are its names in its order, tied ones twice but once in memory, and only what it saves."""
    model = net()
    state = trained(RULES["SGD"], model)
    content = torch.load(export_torch(tmp_path / "a.pt", state, model=model), weights_only=True)
    assert list(content["model"]) == list(model.state_dict())
    assert content["model"]["head.weight"].data_ptr() == content["model"]["embed.weight"].data_ptr()
    assert content["optimizer"] is None
    fnopt.load_into(model, state)
    assert all(torch.equal(leaf, model.state_dict()[name]) for name, leaf in content["model"].items())


def test_a_file_drags_no_larger_memory_along(tmp_path):
    """Params that are views of a large buffer are exported as themselves."""
    big = torch.arange(100_000.0)
    path = export_torch(tmp_path / "a.pt", fnopt.TrainState.of({"a": big[:4], "b": big[4:8].reshape(2, 2).t()}))
    assert path.stat().st_size < 5_000
    loaded = load_checkpoint(path, like=fnopt.TrainState.of({"a": torch.zeros(4), "b": torch.zeros(2, 2)}))
    assert loaded.params["b"].tolist() == [[4.0, 6.0], [5.0, 7.0]]


@pytest.mark.parametrize("call", ["create", "write", "fsync", "replace"])
def test_an_export_is_whole_or_not(call, tmp_path):
    """Where a call fails, the old file stays and nothing else is left; the error has the errno."""
    state = trained(RULES["SGD"], net())
    path = export_torch(tmp_path / "a.pt", state)
    before = path.read_bytes()
    assert all(entry.compress_type == zipfile.ZIP_STORED for entry in zipfile.ZipFile(path).infolist())
    with pytest.raises(CheckpointWriteError) as caught:
        export_torch(path, trained(RULES["SGD"], net(), 5), fs=Failing(call, number=errno.ENOSPC).fs)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert list(left_in(tmp_path)) == ["a.pt"]


def test_what_torch_does_not_have_is_refused(tmp_path):
    """A rule, flag or mixture that no optimizer of torch is, another model, and a live optimizer, each with the fix."""
    model = net()
    state = trained(fnopt.AdamW(), model)

    def refused(error, text, of=state, **arguments):
        with pytest.raises(error, match=text):
            export_torch(tmp_path / "a.pt", of, **arguments)

    lion = fnopt.Lion(lr=0.1)
    refused(
        UsageError, r"torch has no Lion, expected one of .*leave `optimizer` out", trained(lion, model), optimizer=lion
    )
    sgd = fnopt.SGD(lr=0.1, decoupled_weight_decay=True)
    refused(UsageError, "torch's SGD has no decoupled_weight_decay", trained(sgd, model), optimizer=sgd)
    mixed = fnopt.partition({"decay": fnopt.SGD(0.1), "no_decay": fnopt.AdamW()}, fnopt.decay_labels(model))
    refused(UsageError, r"one rule, got \['AdamW', 'SGD'\]", trained(mixed, model), optimizer=mixed)
    refused(UsageError, "write fnopt.AdamW", optimizer=torch.optim.AdamW(model.parameters()))
    refused(StructureError, "not of this Linear.*only in the state", model=torch.nn.Linear(1, 1))
    refused(StructureError, "state is not one of AdamW", trained(fnopt.SGD(0.1), model), optimizer=fnopt.AdamW())
    averaged = fnopt.ema(fnopt.AdamW())
    refused(StructureError, "opt_state is not of this Ema.*give the optimizer of the run", optimizer=averaged)
    refused(UsageError, "scheduler.*has the key 1", scheduler={1: 2})
    assert not list(tmp_path.iterdir())
