"""Parameters of every kind, and what users do to them between steps: the same as with torch.optim."""

import copy

import pytest
import torch
from contract_cases import ALL_FLAGS, SEVEN, THREE, agree, attempt, differs, draw, fill, look, parameters, start, train
from torch import nn

from fnopt import optim as fnopt_optim

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN = [name for name in SEVEN if name != "Muon"]  # Muon takes matrices alone
MANY = {name: {"momentum": 0.9, "weight_decay": 0.1} if name == "SGD" else {"weight_decay": 0.1} for name in SEVEN}
WHOLE = ("Adafactor", "Muon")  # these look at whole parameters, not at entries
HALVES = (torch.bfloat16, torch.float16)


def odd_parameters():
    """Of no dimension, of one entry, empty in two ways, transposed, sliced, expanded in memory, channels_last."""
    image = draw((2, 3, 4, 4), 1).contiguous(memory_format=torch.channels_last)
    volume = draw((2, 3, 2, 2, 2), 2).contiguous(memory_format=torch.channels_last_3d)
    strided = draw((4, 6), 3)[:, ::2]
    offset = draw((10,), 4)[3:]
    tensors = [draw((), 5), draw((1,), 6), draw((3, 4), 7).T, strided, offset, image, volume]
    return [nn.Parameter(tensor) for tensor in (*tensors, torch.empty(0), torch.empty(3, 0))]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("empty", [False, True])
def test_odd_parameters(name, empty):
    """Parameters of no dimension, none or one entry, transposed, sliced or channels_last: torch's bits and strides."""

    def script(optim):
        params = odd_parameters()[: None if empty else -2]
        opt = getattr(optim, name)(params, **MANY[name])
        return attempt(lambda: train(opt, params, range(4)) or look(opt, params))

    if empty and name == "Adafactor":
        assert script(torch.optim).type is ZeroDivisionError  # torch's own; ours may run
    else:
        agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_gradients_of_another_memory_format(name):
    """A gradient need not lie in memory as its parameter does: transposed, expanded or channels_last."""

    def script(optim):
        matrix = nn.Parameter(draw((4, 4), 1))
        params = (
            [matrix] if name == "Muon" else [matrix, nn.Parameter(draw((2, 3, 4, 4), 2)), nn.Parameter(draw((3,), 3))]
        )
        opt = getattr(optim, name)(params, **MANY[name])
        for time in range(3):
            matrix.grad = draw((4, 4), 4, time).T
            if name != "Muon":
                params[1].grad = draw((2, 3, 4, 4), 5, time).contiguous(memory_format=torch.channels_last)
                params[2].grad = draw((1,), 6, time).expand(3)
            opt.step()
        states = [{key: value.contiguous() for key, value in opt.state[param].items()} for param in params]
        return [param.detach() for param in params], states  # SGD's momentum lies as its first gradient in torch

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
@pytest.mark.parametrize("kind", ["many", "large", "both"])
def test_sizes(name, kind):
    """Many small parameters, one of over a million entries, and both at once: torch's bits."""
    shapes = {"many": [(3, 5)] * 150, "large": [(1025, 1025)], "both": [(3, 5)] * 20 + [(200, 201), (400, 3)]}[kind]
    flags = {"ns_steps": 1} if name == "Muon" else {}

    def script(optim):
        params = [nn.Parameter(draw(shape, 1, place)) for place, shape in enumerate(shapes)]
        opt = getattr(optim, name)(params, **MANY[name], **flags)
        train(opt, params, range(2))
        return [param.detach() for param in params], opt.state_dict()

    agree(script)


def as_shapes(opt, params):
    """For each entry of the state its key, dtype, shape and strides."""
    return [
        [(key, value.dtype, value.shape, value.stride()) for key, value in opt.state[param].items()] for param in params
    ]


@pytest.mark.parametrize(("name", "flags"), [case for case in ALL_FLAGS if case[0] not in WHOLE])
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision(name, flags, dtype):
    """bfloat16 and float16 parameters and their state have torch's bits, kernel by kernel."""

    def script(optim):
        params = parameters(name, dtype)
        opt = getattr(optim, name)(params, **flags)
        train(opt, params, range(4))
        return look(opt, params)

    agree(script)


@pytest.mark.parametrize(("name", "flags"), [case for case in ALL_FLAGS if case[0] in WHOLE])
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_of_whole_matrices(name, flags, dtype):
    """A step of these in half precision is torch's float32 step from the same numbers, rounded once; keys are torch's.

    torch itself rounds at each of its kernels.
    """
    params = parameters(name, dtype)
    opt = getattr(fnopt_optim, name)(params, **flags)
    for time in range(4):
        fill(params, time)
        wide = [nn.Parameter(param.detach().float()) for param in params]
        twin = getattr(torch.optim, name)(wide, **flags)
        twin.load_state_dict(copy.deepcopy(opt.state_dict()))
        for param, other in zip(params, wide, strict=True):
            other.grad = param.grad.float()
        opt.step()
        twin.step()
        for param, other in zip(params, wide, strict=True):
            state = {key: value if key == "step" else value.to(dtype) for key, value in twin.state[other].items()}
            assert differs([param.detach(), opt.state[param]], [other.detach().to(dtype), state]) is None
    theirs = parameters(name, dtype)
    other = getattr(torch.optim, name)(theirs, **flags)
    train(other, theirs, range(4))
    assert as_shapes(opt, params) == as_shapes(other, theirs)


@pytest.mark.parametrize("name", PLAIN)
def test_dtypes_side_by_side(name):
    """Four dtypes in one optimizer: torch's bits, but for float64 within 2 ulp of max(|p|, lr) a step."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float64, torch.float32)
    lr, weights = 0.05, [draw((3, 4), place, dtype=dtype) for place, dtype in enumerate(dtypes)]
    sides = []
    for optim in (torch.optim, fnopt_optim):
        params = [nn.Parameter(weight.clone()) for weight in weights]
        groups = [{"params": [param]} for param in params] if name == "Adafactor" else params  # its eps is the first's
        sides.append((getattr(optim, name)(groups, lr=lr), params))
    (theirs, their_params), (ours, our_params) = sides
    for time in range(5):
        train(theirs, their_params, (time,))
        train(ours, our_params, (time,))
        assert as_shapes(ours, our_params) == as_shapes(theirs, their_params)
        for expected, got in zip(their_params, our_params, strict=True):
            if expected.dtype == torch.float32 or (name not in WHOLE and expected.dtype in HALVES):
                assert differs((got, ours.state[got]), (expected, theirs.state[expected])) is None
                continue
            ulps = 2 if expected.dtype == torch.float64 else 8  # torch rounds four kernels, and its state
            bound = ulps * torch.finfo(expected.dtype).eps * expected.detach().abs().clamp(min=lr)
            assert ((got - expected).abs() <= bound).all()
            got.data.copy_(expected.data)
            for key, value in theirs.state[expected].items():
                ours.state[got][key].copy_(value)


@pytest.mark.parametrize(("name", "flags"), ALL_FLAGS)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_parameters(name, flags, dtype):
    """Complex parameters are updated as in torch within rounding, next to real ones, or refused with torch's error."""

    def script(optim):
        shape = (3, 2)
        tensors = [torch.complex(draw(shape, 1), draw(shape, 2)).to(dtype), draw(shape, 3)]
        params = [nn.Parameter(tensor) for tensor in tensors]
        opt = getattr(optim, name)(params, **flags)

        def run():
            for time in range(4):
                params[0].grad = torch.complex(draw(shape, 4, time), draw(shape, 5, time)).to(dtype)
                params[1].grad = draw(shape, 6, time)
                opt.step()
            return look(opt, params)

        return attempt(run)

    expected, got = (script(optim) for optim in (torch.optim, fnopt_optim))
    if not isinstance(expected, dict):
        assert differs(got, expected) is None
        return
    bound = 16 * torch.finfo(dtype).eps  # four steps of some four roundings; real and complex kernels round apart
    torch.testing.assert_close(got["weights"], expected["weights"], rtol=bound, atol=bound)
    torch.testing.assert_close(got["state_dict"]["state"], expected["state_dict"]["state"], rtol=bound, atol=bound)
    assert got["repr"] == expected["repr"]


@pytest.mark.parametrize("name", SEVEN)
@pytest.mark.parametrize("flags", [{}, {"weight_decay": 0.1}, {"momentum": 0.9}, {"maximize": True}])
def test_sparse_gradients(name, flags):
    """Sparse gradients are taken by SGD and Adagrad as in torch, and refused by the others with torch's error."""
    if ("momentum" in flags and name != "SGD") or ("maximize" in flags and name == "Muon"):
        flags = {}

    def script(optim):
        table = nn.Embedding(6, 3, sparse=True)
        table.weight.data = draw((6, 3), 1)
        dense = nn.Parameter(draw((3, 3), 2))
        opt = getattr(optim, name)([table.weight, dense], lr=0.1, **flags)

        def run():
            for time in range(3):
                opt.zero_grad()
                (table(torch.tensor([time, 4, 4])) @ dense).square().sum().backward()
                opt.step()
            return [table.weight.detach(), dense.detach()]

        with torch.sparse.check_sparse_tensor_invariants(True):  # on or off, torch wants it said
            return attempt(run)

    outcomes = [script(optim) for optim in (torch.optim, fnopt_optim)]
    if isinstance(outcomes[0], list):
        torch.testing.assert_close(outcomes[1], outcomes[0])
    elif outcomes[0].text.startswith("add("):  # a kernel's text, which says nothing of optimizers
        assert issubclass(outcomes[1].type, outcomes[0].type)
    else:
        assert differs(outcomes[1], outcomes[0]) is None


@pytest.mark.parametrize("name", THREE)
def test_nan_and_infinity(name):
    """Non-finite gradients and weights go through a step as in torch, and stay in their entries."""

    def script(optim):
        opt, params = start(optim, name, MANY[name])
        for time in range(3):
            fill(params, time)
            params[0].grad[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
            params[1].grad *= 1e30
            opt.step()
        return look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", THREE)
def test_subnormal_and_huge_values(name):
    """Gradients at both ends of float32 give torch's bits."""

    def script(optim):
        opt, params = start(optim, name)
        for time in range(4):
            fill(params, time)
            params[0].grad *= 1e-42
            params[1].grad *= 1e19
            params[3].grad *= 1e-23
            opt.step()
        return look(opt, params)

    agree(script)
