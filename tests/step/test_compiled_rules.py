"""Every exported rule, transform and schedule under `compiled`, as the parts of one partition: one program for all."""

import attrs
import pytest
import torch
from compile_cases import BOUND, close, gap

import fnopt
from fnopt import (
    SGD,
    AdamW,
    AddNoise,
    ClipNorm,
    ClipParamNorm,
    Tap,
    chain,
    compiled,
    ema,
    lookahead,
    make_step,
    partition,
    snapshot,
    value_and_grad,
)

RULES = {
    name: thing()
    for name, thing in vars(fnopt).items()
    if attrs.has(thing) and hasattr(thing, "update") and thing.__module__.startswith("fnopt.rules.")
    and all(field.default is not attrs.NOTHING for field in attrs.fields(thing))
}  # fmt: skip
WRAPPED = {
    "ema": ema(AdamW(0.1), 0.5),
    "lookahead": lookahead(SGD(0.1, momentum=0.5), k=2),
    "ScheduleFree": fnopt.ScheduleFree(SGD(0.1)),
    "clip": chain(ClipNorm(0.1), Tap("seen"), ClipParamNorm(0.05), fnopt.AdaptiveClip(), fnopt.Centralize(), SGD(0.1)),
    "scale": chain(fnopt.ClipValue(0.1), fnopt.NanToZero(), fnopt.ScaleByAdam(), SGD(0.1, momentum=0.9, nesterov=True)),
    "sgd": SGD(0.1, momentum=0.9, dampening=0.1, weight_decay=0.1),
    "adamw": AdamW(0.1, amsgrad=True, maximize=True),
}
SCHEDULES = {
    "constant": fnopt.constant(0.1),
    "linear": fnopt.linear(0.0, 0.1, steps=5),
    "cosine": fnopt.cosine(0.1, steps=5, end=0.01),
    "polynomial": fnopt.polynomial(0.1, 0.0, steps=5, power=2.0),
    "exponential": fnopt.exponential(0.1, 0.9),
    "warmup_cosine": fnopt.warmup_cosine(peak=0.1, warmup=2, total=6),
    "warmup_stable_decay": fnopt.warmup_stable_decay(peak=0.1, warmup=2, stable=2, decay=2),
    "inverse_sqrt": fnopt.inverse_sqrt(peak=0.1, warmup=2),
    "step_decay": fnopt.step_decay(0.1, every=2, factor=0.5),
    "multistep_decay": fnopt.multistep_decay(0.1, milestones=(2, 4), factor=0.5),
    "one_cycle": fnopt.one_cycle(peak=0.1, total=6),
    "cosine_restarts": fnopt.cosine_restarts(0.1, period=3),
    "join": fnopt.join((fnopt.constant(0.1), fnopt.linear(0.1, 0.0, steps=3)), boundaries=(3,)),
    "lambda": lambda step: 0.1 / (step + 1.0),
}


def all_in_one(parts):
    """(step, first state) of one partition in which each part has a matrix of its own."""
    generator = torch.Generator().manual_seed(0)
    params = {name: torch.randn(3, 2, generator=generator) for name in parts}

    def loss(params, batch):
        return sum(((p - batch) ** 2 * (place + 1)).sum() for place, p in enumerate(params.values())), 2

    step = make_step(value_and_grad(loss), partition(parts, {name: name for name in parts}))
    return step, step.init_state(params)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [RULES, WRAPPED, {name: SGD(lr) for name, lr in SCHEDULES.items()}], ids=len)
def test_every_part_is_what_it_is_in_eager(parts):
    """Five updates, each from the same state: every part within the bound (Muon to bfloat16), reports and rates too."""
    step, state = all_in_one(parts)
    kernels = compiled(step)
    for seed in range(5):
        batch = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))
        old = snapshot(state)
        expected, wanted = step.step(snapshot(state), batch)
        state, metrics = kernels.step(state, batch)
        for name in parts:
            only = [fnopt.evolve(s, params={name: s.params[name]}) for s in (old, state, expected)]
            assert gap(*only) <= (2.0**-6 if name == "Muon" else BOUND), name
        assert close(metrics, wanted)
    assert (kernels.stats.compiles, kernels.stats.fallback) == (1, None)


@pytest.mark.slow
def test_counted_noise_is_the_same_noise():
    """Noise that is drawn by counting has the bits of eager's in a trace, and moves on with the steps."""
    step, state = all_in_one({"noisy": chain(AddNoise(0.5, seed=3), SGD(0.1))})
    kernels, ends = compiled(step), []
    for _ in range(3):
        expected, _ = step.step(snapshot(state), torch.zeros(3, 2))
        state, _ = kernels.step(state, torch.zeros(3, 2))
        assert close(state.params, expected.params)
        ends.append(state.params["noisy"].clone())
    assert not torch.allclose(ends[1] - ends[0], ends[2] - ends[1], rtol=1e-2)


def test_the_tables_are_complete():
    """Every exported rule and every exported schedule but the one with a state stands in a table."""
    assert RULES.keys() >= {"SGD", "Adam", "AdamW", "Lion", "RMSprop", "Adagrad", "Adafactor", "Muon"}
    makers = {
        name for name in fnopt.__all__ if getattr(vars(fnopt)[name], "__module__", "").startswith("fnopt.schedules.")
    }
    assert makers - SCHEDULES.keys() == {"plateau", "one_cycle_momentum"}
