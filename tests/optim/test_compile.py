"""compile=True: one kernel per rule and flags, for all leaves and models; and the default mode where there is none."""

import copy
import warnings
from itertools import product

import pytest
import torch
from bits_cases import Run, draw
from torch import nn

import fnopt
from fnopt import optim
from fnopt.errors import FallbackWarning, HyperparameterError
from fnopt.optim import TorchOptimizer, kernel, player

pytestmark = pytest.mark.usefixtures("one_thread")
FLAGS = {"amsgrad": True, "weight_decay": 0.1}


@pytest.fixture
def kernels(monkeypatch):
    """The kernels of this test alone."""
    made = {}
    monkeypatch.setattr(player, "_KERNELS", made)
    return made


@pytest.fixture
def no_eager_rows(monkeypatch):
    """Any row that is not updated by a kernel fails the test."""

    def fail(self, reading):
        raise AssertionError("a row went the eager way")

    monkeypatch.setattr(player.Player, "_played", fail)


def pair(name, flags, lr, draws):
    """The same run twice: compiled, and in the default mode."""
    return Run(optim, name, {**flags, "compile": True}, lr, draws), Run(optim, name, flags, lr, draws)


def test_one_kernel_serves_all_shapes_and_models(kernels):
    """Two models, leaves of every size and layout, new rates and other numbers: one kernel, one program."""
    for draws, flags in ((draw(), FLAGS), (draw(matrices=True, seed=2), {**FLAGS, "betas": (0.5, 0.7), "eps": 1e-3})):
        for lr in ("float", "by hand", "tensor", "tensor by hand"):
            run, _ = pair("AdamW", flags, lr, draws)
            for t in range(2):
                run.step(t, draws.grads(t))
    assert len(kernels) == 1
    (made,) = kernels.values()
    assert len(made._runs) == 1
    assert None not in made._runs.values()


def test_other_flags_are_another_kernel(kernels):
    """Negative control: a flag that changes the formula makes a second kernel."""
    draws = draw(without=("large", "large channels_last"))
    for flags in ({"maximize": False}, {"maximize": True}):
        run, _ = pair("SGD", flags, "float", draws)
        run.step(0, draws.grads(0))
    assert len(kernels) == 2


@pytest.mark.usefixtures("no_eager_rows")
def test_what_the_kernel_serves():
    """Small, large, channels_last and 5-d leaves all go through a kernel."""
    shapes = [(3, 4), (300, 200), (7,), (2, 3, 2, 2, 2)]
    tensors = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in shapes]
    last = [torch.ones(2, 3, 4, 4), torch.ones(16, 8, 17, 17)]
    params = [nn.Parameter(t) for t in (*tensors, *(t.contiguous(memory_format=torch.channels_last) for t in last))]
    optimizer = optim.AdamW(params, amsgrad=True, weight_decay=0.1, compile=True)
    for p in params:
        p.grad = torch.ones_like(p)
    before = [p.detach().clone() for p in params]
    optimizer.step()
    assert all(p.grad.stride() == p.stride() for p in params)
    assert not any(torch.equal(p, old) for p, old in zip(params, before, strict=True))


def in_dtypes(dtypes, compiled):
    """The same parameters of these dtypes after one step, before it, and the optimizer."""
    gen = torch.Generator().manual_seed(4)
    params = [nn.Parameter(torch.randn(5, 7, generator=gen).to(dtype)) for dtype in dtypes]
    olds = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.randn(5, 7, generator=gen).to(p.dtype)
    optimizer = optim.AdamW(params, lr=0.1, eps=1e-3, weight_decay=0.1, compile=compiled)
    optimizer.step()
    return params, olds, optimizer


def test_several_dtypes_in_one_optimizer(kernels):
    """float32, float64 and bfloat16 side by side have a kernel each, within 16 roundings of the default mode.

    bfloat16 is computed in float32 and rounded once; the default mode rounds as torch does, u = 2^-8 each: the decayed
    p and both last results, 3 u of p, and six roundings in the update.
    """
    bounds = {torch.float32: (2**-20, 0), torch.float64: (2**-49, 0), torch.bfloat16: (3 * 2**-8, 6 * 2**-8)}
    ours, olds, compiled = in_dtypes([*bounds, *bounds], True)
    theirs, _, default = in_dtypes([*bounds, *bounds], False)
    assert len(kernels) == 3
    for p, q, old in zip(ours, theirs, olds, strict=True):
        of_p, of_update = bounds[p.dtype]
        update = (q - old).abs().double()
        bound = of_p * torch.maximum(old.abs().double(), update) + of_update * update
        assert ((p.double() - q.double()).abs() <= bound).all(), p.dtype
        assert all(compiled.state[p][key].dtype == leaf.dtype for key, leaf in default.state[q].items())


PURE = {
    "lion": fnopt.Lion(0.1),
    "clipped": fnopt.chain(fnopt.ClipNorm(1.0), fnopt.AdamW(0.1)),
    "ema": fnopt.ema(fnopt.SGD(0.1, momentum=0.9)),
    "schedule": fnopt.SGD(fnopt.linear(0.1, 0.01, steps=5)),
    "muon": fnopt.Muon(0.1),
}
SLOW = ("lion", "ema", "schedule")


@pytest.mark.parametrize(
    "rule", ["clipped", "muon", *(pytest.param(r, marks=pytest.mark.slow) for r in list(PURE)[:4])]
)
def test_any_pure_optimizer_may_be_compiled(rule):
    """compile=True is right for every optimizer: what is not elementwise runs as it does without."""
    runs = []
    for compiled in (True, False):
        params = [nn.Parameter(torch.arange(12.0).reshape(3, 4) - 5.5), nn.Parameter(torch.ones(2, 2))]
        optimizer = TorchOptimizer(params, PURE[rule], compile=compiled)
        for time in range(3):
            for p in params:
                p.grad = torch.linspace(-1, 2 + time, p.numel()).reshape(p.shape) + 0.01
            optimizer.step()
        runs.append(params)
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=3e-6, atol=3e-6)  # three steps; Lion's sign at 0 is not met


def test_a_compiled_run_saves_and_loads_as_any_other():
    """Its state_dict has the keys, dtypes and order of the default mode, and each goes on from the other's."""
    draws = draw(without=("large", "large channels_last"))
    compiled, default = pair("AdamW", FLAGS, "float", draws)
    for t in range(3):
        for run in (compiled, default):
            run.step(t, draws.grads(t))
    mine, its = (run.optimizer.state_dict()["state"] for run in (compiled, default))
    assert [list(state) for state in mine.values()] == [list(state) for state in its.values()]
    for source, target in ((compiled, default), (default, compiled)):
        target.optimizer.load_state_dict(copy.deepcopy(source.optimizer.state_dict()))
        target.step(3, draws.grads(3))


@pytest.mark.parametrize("stage", ["trace", "compile_graph"])
def test_without_a_compiler_it_warns_once_and_is_right(monkeypatch, kernels, stage):
    """Where compiling fails the update is the default mode's, to the bit, and a FallbackWarning says why, once."""

    def broken(*args, **kwargs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(kernel, stage, broken)
    draws = draw()
    compiled, default = pair("AdamW", FLAGS, "by hand", draws)
    default.step(0, draws.grads(0))
    with pytest.warns(FallbackWarning, match="runs eagerly.*no compiler here") as caught:
        compiled.step(0, draws.grads(0))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for t, run in product((1, 2), (compiled, default)):
            run.step(t, draws.grads(t))
    for key, p in compiled.params.items():
        assert torch.equal(p, default.params[key]), key


@pytest.mark.parametrize("name", ["Muon", "Adafactor"])
def test_rules_of_whole_parameters_take_no_compile(name):
    """Muon and Adafactor refuse compile=True, and say why."""
    with pytest.raises(HyperparameterError, match="compile=True is for rules that look at each entry alone"):
        getattr(optim, name)([nn.Parameter(torch.ones(2, 2))], compile=True)
