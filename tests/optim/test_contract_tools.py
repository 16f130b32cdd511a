"""torch's own clients of an optimizer (GradScaler, SWA, profiler, compiler) and subclasses work as with torch.optim."""

import collections

import pytest
import torch
from contract_cases import SEVEN, THREE, agree, attempt, draw, fill, look, start, train, with_warnings
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from fnopt import optim as fnopt_optim

pytestmark = pytest.mark.usefixtures("one_thread")


def scaled_run(opt, params, scaler):
    """Six steps through a GradScaler, with clipping, an infinity in the third and a nan in the fifth."""
    scales = []
    for time in range(6):
        opt.zero_grad()
        scaler.scale(sum(((param - 1) ** 2).sum() for param in params)).backward()
        if time in (2, 4):
            params[0].grad.view(-1)[0] = torch.inf if time == 2 else torch.nan
        if time % 2:
            scaler.unscale_(opt)
            nn.utils.clip_grad_norm_(params, 1.0)
        scaler.step(opt)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


@pytest.mark.parametrize("name", SEVEN)
def test_grad_scaler(name):
    """Under GradScaler a step with an infinity is skipped whole, and the others have torch's bits."""

    def script(optim):
        opt, params = start(optim, name)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
        return scaled_run(opt, params, scaler), scaler.state_dict(), look(opt, params)

    scales, *_ = agree(script)
    assert scales == [1024.0, 2048.0, 1024.0, 1024.0, 512.0, 512.0]


@pytest.mark.parametrize("name", THREE)
def test_grad_scaler_with_fused(name):
    """With fused=True the scaler skips the same steps, and the bits are those of torch's plain loop."""
    plain, plain_params = start(torch.optim, name)
    opt, params = start(fnopt_optim, name, {"fused": True})
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2) for _ in range(2)]
    expected = scaled_run(plain, plain_params, scalers[0])
    assert scaled_run(opt, params, scalers[1]) == expected
    assert all(torch.equal(got, value) for got, value in zip(params, plain_params, strict=True))
    assert not {"grad_scale", "found_inf"} & set(vars(opt))


@pytest.mark.parametrize("enabled", [True, False])
def test_grad_scaler_and_closures(enabled):
    """A closure= under an enabled scaler is torch's RuntimeError; a positional one is handed on."""

    def script(optim):
        opt, params = start(optim, "SGD")
        scaler = torch.amp.GradScaler("cpu", enabled=enabled)
        scaler.scale(torch.ones(()))
        fill(params, 0)
        seen = [attempt(lambda: scaler.step(opt, closure=lambda: 3.0)), scaler.step(opt, lambda: 4.0)]
        return seen, look(opt, params)

    agree(script)


def test_half_precision_gradients_under_a_scaler():
    """float16 gradients are refused by unscale_ with torch's text."""

    def script(optim):
        param = nn.Parameter(draw((2,), 1).half())
        opt = optim.AdamW([param])
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(torch.ones(()))
        fill([param], 0)
        return attempt(lambda: scaler.unscale_(opt))

    agree(script)


@pytest.mark.parametrize("name", THREE)
def test_averaged_weights(name):
    """AveragedModel, SWALR and update_bn over a network with BatchNorm give torch's averaged weights and statistics."""

    def script(optim):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        opt = getattr(optim, name)(model.parameters(), lr=0.1)
        averages = [AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))]
        scheduler = SWALR(opt, swa_lr=0.05, anneal_epochs=3)
        for time in range(6):
            opt.zero_grad()
            model(draw((8, 3), 1, time)).square().mean().backward()
            opt.step()
            scheduler.step()
            for average in averages:
                average.update_parameters(model)
        update_bn([draw((8, 3), 2, time) for time in range(3)], averages[0])
        return [dict(average.state_dict()) for average in averages], look(opt, model.parameters())

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_profiler(name):
    """A profile shows Optimizer.step#NAME.step and Optimizer.zero_grad#NAME.zero_grad, as often as torch's."""

    def script(optim):
        opt, params = start(optim, name)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
            train(opt, params, range(2))
            opt.zero_grad()
        names = collections.Counter(event.name for event in profile.events() if event.name.startswith("Optimizer."))
        return dict(sorted(names.items()))

    assert agree(script) == {f"Optimizer.step#{name}.step": 2, f"Optimizer.zero_grad#{name}.zero_grad": 1}


@pytest.mark.parametrize("name", SEVEN)
def test_a_dynamic_subclass(name):
    """A wrapper class mixed in by type(), as Lightning's Fabric does, steps, saves and shows itself as in torch."""

    class Wrapper:
        calls = 0

        def __init__(self, optimizer):
            self.__dict__ = {key: value for key, value in vars(optimizer).items() if key != "step"}
            self.__class__ = type("Wrapped" + name, (Wrapper, type(optimizer)), {})
            self.optimizer = optimizer

        def step(self, closure=None):
            self.calls += 1
            return self.optimizer.step(closure)

    def script(optim):
        opt, params = start(optim, name)
        wrapped = Wrapper(opt)
        assert isinstance(wrapped, getattr(optim, name))
        fill(params, 0)
        losses = [wrapped.step(closure=lambda: 2.0), wrapped.step()]
        return losses, wrapped.calls, look(wrapped, params), look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
@pytest.mark.parametrize("overrides", [True, False])
def test_a_subclass(name, overrides):
    """A user's subclass, with a step of its own or not, runs hooks as often as torch's, and gives its bits."""

    def script(optim):
        base = getattr(optim, name)
        for other in SEVEN:
            start(optim, other)

        class Mine(base):
            def __init__(self, params, **flags):
                super().__init__(params, **flags)
                self.calls = 0

        if overrides:

            def step(self, closure=None):
                self.calls += 1
                return base.step(self, closure)

            Mine.step = step
        log = []
        params = start(optim, name)[1]
        opt = Mine(params)
        opt.register_step_pre_hook(lambda *args: log.append(len(args)))
        train(opt, params, range(3))
        saved = opt.state_dict()
        opt.load_state_dict(saved)
        return log, opt.calls, look(opt, params)

    log, *_ = agree(script)
    if not overrides:
        assert len(log) == 3


def test_a_base_class_of_ones_own():
    """A user's own torch optimizer, written against Optimizer of this module, works beside ours."""

    def script(optim):
        class Sign(optim.Optimizer):
            def __init__(self, params, lr=0.1):
                super().__init__(params, {"lr": lr})

            @torch.no_grad()
            def step(self, closure=None):
                for group in self.param_groups:
                    for param in group["params"]:
                        param.sub_(group["lr"] * param.grad.sign())

        params = start(optim, "AdamW")[1]
        opt = Sign(params)
        train(opt, params, range(2))
        return look(opt, params), with_warnings(lambda: repr(opt))

    agree(script)
