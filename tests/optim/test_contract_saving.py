"""Saving, copying and loading: files, keys and bits are torch's, and a run goes on as if nothing had happened."""

import copy
import io
import pickle

import pytest
import torch
from contract_cases import ALL_FLAGS, SEVEN, agree, attempt, differs, draw, look, parameters, start, train
from torch import nn

from fnopt import optim as fnopt_optim

pytestmark = pytest.mark.usefixtures("one_thread")
SIDES = {"torch": torch.optim, "fnopt": fnopt_optim}


def through_a_file(thing):
    """Saved by torch.save, loaded by torch.load with nothing but weights allowed."""
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def size(thing):
    """Bytes of its file."""
    file = io.BytesIO()
    torch.save(thing, file)
    return file.tell()


@pytest.mark.parametrize(("name", "flags"), ALL_FLAGS)
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_a_copy_in_mid_run_goes_on(name, flags, copier):
    """Deep-copied or pickled after some steps, original and copy go on to the same bits, each with its own tensors."""

    def script(optim):
        opt, params = start(optim, name, flags)
        train(opt, params, range(3))
        other, others = copier((opt, params))
        assert type(other) is type(opt)
        train(opt, params, range(3, 5))
        seen = look(other, others)
        train(other, others, range(3, 5))
        assert differs(look(opt, params), look(other, others)) is None
        return seen, look(other, others)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_a_copy_before_the_first_step(name):
    """A fresh optimizer can be pickled and copied, too."""

    def script(optim):
        opt, params = pickle.loads(pickle.dumps(copy.deepcopy(start(optim, name))))
        train(opt, params, range(2))
        return look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_three_things_are_pickled(name):
    """__getstate__ gives defaults, state and groups; __setstate__ needs no more, and makes the tables of hooks anew."""

    def script(optim):
        opt, params = start(optim, name)
        train(opt, params, (0,))
        three = {key: opt.__getstate__()[key] for key in ("defaults", "state", "param_groups")}
        other = object.__new__(type(opt))
        other.__setstate__(three)
        train(other, params, range(1, 3))
        hooks = sorted(key for key in vars(other) if "hooks" in key)
        return (
            {key: type(value).__name__ for key, value in three.items()},
            three["defaults"],
            look(other, params),
            hooks,
        )

    agree(script)


@pytest.mark.parametrize(("name", "flags"), ALL_FLAGS)
@pytest.mark.parametrize("steps", [0, 3])
def test_through_a_file_into_a_new_optimizer(name, flags, steps):
    """A state dict goes through torch.save and a weights-only load into a fresh optimizer, which goes on."""

    def script(optim):
        opt, params = start(optim, name, flags)
        train(opt, params, range(steps))
        saved = through_a_file(opt.state_dict())
        other = getattr(optim, name)(params, lr=0.7)
        other.load_state_dict(copy.deepcopy(saved))
        train(other, params, range(steps, steps + 3))
        return saved, look(other, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_the_size_of_the_file(name):
    """The file of the state of 300 small tensors is at most 5 % larger than torch's."""
    sizes = {}
    for side, optim in SIDES.items():
        params = [nn.Parameter(draw((3, 2), place)) for place in range(300)]
        opt = getattr(optim, name)(params, **({"momentum": 0.9} if name == "SGD" else {}))
        train(opt, params, range(2))
        sizes[side] = size(opt.state_dict())
    assert sizes["fnopt"] <= 1.05 * sizes["torch"], sizes


@pytest.mark.parametrize(("name", "flags"), ALL_FLAGS)
@pytest.mark.parametrize(("source", "target"), [("torch", "fnopt"), ("fnopt", "torch")])
def test_a_state_of_the_other_side(name, flags, source, target):
    """A run may change sides after any step and back after any other: it ends as a run of torch.optim alone."""
    for there, back in ((0, 2), (1, 4), (3, 5), (4, 4)):
        opt, params = start(SIDES[source], name, flags)
        train(opt, params, range(there))
        other = getattr(SIDES[target], name)(params)
        other.load_state_dict(through_a_file(opt.state_dict()))
        train(other, params, range(there, back))
        opt = getattr(SIDES[source], name)(params)
        opt.load_state_dict(through_a_file(other.state_dict()))
        train(opt, params, range(back, 7))
        plain, plain_params = start(torch.optim, name, flags)
        train(plain, plain_params, range(7))
        ends = look(opt, params), look(plain, plain_params)
        for end in ends:
            del end["group keys"]  # a load moves "params" to the end, in torch, too
        assert differs(*ends) is None


@pytest.mark.parametrize("name", SEVEN)
def test_loading_into_a_run(name):
    """A state loaded over a running one replaces it; what was loaded is not tied to the saved tensors' dict."""

    def script(optim):
        opt, params = start(optim, name)
        train(opt, params, range(2))
        saved = copy.deepcopy(opt.state_dict())
        weights = [param.detach().clone() for param in params]
        train(opt, params, range(2, 6))
        with torch.no_grad():
            for param, value in zip(params, weights, strict=True):
                param.copy_(value)
        opt.load_state_dict(saved)
        saved["param_groups"][0]["lr"] = 1e9
        saved["state"].clear()
        train(opt, params, range(2, 4))
        return look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_what_is_loaded_stays_there(name):
    """The state has the loaded values, and the tensors that hold them after the load hold them after a step."""

    def script(optim):
        opt, params = start(optim, name, {"momentum": 0.9} if name == "SGD" else {})
        train(opt, params, range(2))
        saved = copy.deepcopy(opt.state_dict())
        opt.load_state_dict(saved)
        loaded = [dict(opt.state[param]) for param in params]
        same = [
            torch.equal(loaded[place][key], value)
            for place in saved["state"]
            for key, value in saved["state"][place].items()
        ]
        train(opt, params, range(2, 4))
        return same, [
            [opt.state[param][key] is held[key] for key in held] for param, held in zip(params, loaded, strict=True)
        ]

    same, kept = agree(script)
    assert all(same)
    assert all(map(all, kept))


@pytest.mark.parametrize("name", SEVEN)
def test_moments_of_another_dtype(name):
    """Moments of another dtype are cast to the parameter's at load, the clock is not, and the run goes on."""

    def script(optim):
        opt, params = start(optim, name, {"momentum": 0.9} if name == "SGD" else {})
        train(opt, params, range(2))
        saved = opt.state_dict()
        cast = {
            place: {key: value.double() if torch.is_tensor(value) else value for key, value in state.items()}
            for place, state in saved["state"].items()
        }
        opt.load_state_dict({**saved, "state": cast})
        seen = look(opt, params)
        train(opt, params, range(2, 4))
        return seen, look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_a_parameter_whose_state_was_not_saved(name):
    """A parameter without a saved state starts its own, as in torch (pruned or added layers)."""

    def script(optim):
        opt, params = start(optim, name)
        train(opt, params, range(3))
        saved = opt.state_dict()
        saved["state"].pop(1, None)
        opt.load_state_dict(saved)
        return attempt(lambda: train(opt, params, range(3, 5)) or look(opt, params))

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_a_state_of_other_groups_is_refused(name):
    """Another number of groups or of parameters in one is a ValueError that says what torch's does; nothing changed."""

    def script(optim):
        opt, params = start(optim, name)
        train(opt, params, range(2))
        before = look(opt, params)
        errors = []
        for groups in ([params[:1], params[1:]], [params[:1]], [params + parameters(name)]):
            donor = getattr(optim, name)([{"params": group} for group in groups])
            errors.append(attempt(lambda donor=donor: opt.load_state_dict(donor.state_dict())))
        assert differs(look(opt, params), before) is None
        train(opt, params, range(2, 4))
        return [error.type for error in errors], [error.text[:40] for error in errors], look(opt, params)

    agree(script)
