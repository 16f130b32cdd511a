"""A Trainer is the loop that a user would write of the same pieces, to the bit."""

import pytest
import torch
from torch import nn
from trainer_cases import bits, dataset, loss, model, trained, trainer

import fnopt

SCHEDULE = fnopt.warmup_cosine(peak=0.05, warmup=3, total=9)


def composed(precision, compile, ema, accumulate=2):
    """The loop of the design page, by hand."""
    own = model()
    grad_fn = fnopt.value_and_grad(own, loss)
    if precision != "fp32":
        grad_fn = fnopt.autocast(grad_fn, {"bf16": torch.bfloat16, "fp16": torch.float16}[precision])
    scale = fnopt.DynamicLossScale() if precision == "fp16" else None
    optimizer = fnopt.AdamW(lr=SCHEDULE)
    optimizer = fnopt.chain(fnopt.ClipNorm(1.0), fnopt.ema(optimizer, 0.9) if ema else optimizer)
    step = fnopt.make_step(fnopt.accumulate(grad_fn), optimizer, loss_scale=scale)
    step = fnopt.compiled(step, at_once=True) if compile else step
    state = step.init_state(own, seed=5)
    data = fnopt.Batches(dataset(), batch_size=4, micro_batches=accumulate, seed=5)
    for made, _ in fnopt.run(step, state, data, updates=9):
        state = made
    found = fnopt.evaluate(own, loss, fnopt.evolve(state, params=step.eval_params(state)), _held_out())
    return state, found


def _held_out():
    return fnopt.Batches(dataset(10, seed=1), 4, shuffle=False)


def check(precision, compile, ema):
    by_hand, found = composed(precision, compile, ema)
    optimizer = fnopt.AdamW(lr=SCHEDULE)
    optimizer = fnopt.ema(optimizer, 0.9) if ema else optimizer
    made = trainer(
        optimizer=optimizer, grad_accum_steps=2, max_grad_norm=1.0, seed=5, precision=precision, compile=compile
    )
    measured = made.train()
    assert bits(made.state) == bits(by_hand)
    if precision == "fp32":
        assert measured == found
    return by_hand


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_trainer_is_the_hand_composed_loop(precision, ema):
    """Params, buffers, memory, loss scale and clocks equal those of the loop by hand, and so does validation."""
    check(precision, compile=False, ema=ema)


def test_a_compiled_trainer_is_the_compiled_loop():
    """compile=True is `compiled` around the same step."""
    data, own = fnopt.Batches(dataset(), 11, seed=0), nn.Linear(4, 2)
    step = fnopt.compiled(fnopt.make_step(fnopt.value_and_grad(own, loss), fnopt.SGD(0.1)))
    *_, (state, _) = fnopt.run(step, step.init_state(own), data, updates=4)
    made = trainer(model=own, optimizer=fnopt.SGD(0.1), train_loader=data, max_epochs=2, compile=True, val_loader=None)
    made.train()
    assert made.step.stats.mode == "compiled"
    assert bits(made.state) == bits(state)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_compiled_trainer_is_the_compiled_loop_with_everything(precision):
    """Also with accumulation, an average, a schedule, clipping, and under autocast."""
    check(precision, compile=True, ema=True)


def test_another_seed_is_another_run():
    """Negative control: the comparison sees a different order."""
    assert bits(trained(seed=1)) != bits(trained(seed=2))


def test_the_model_holds_the_trained_weights():
    """After train() the module the user gave has what the state has, in the mode in which it was."""
    own = model()
    state = trained(model=own)
    assert all(torch.equal(value, {**state.params, **state.buffers}[name]) for name, value in own.state_dict().items())
    assert own.training
    own.eval()
    trained(model=own)
    assert not own.training


def test_step_and_state_are_the_public_pieces():
    """One more step by hand is a step of the run: `trainer.step` and `trainer.state` hide nothing."""
    whole, stepped = trainer(), trainer()
    stepped.state, metrics = stepped.step.step(stepped.state, stepped.data.at(0))
    assert stepped.state.position == 1
    assert metrics["loss"].isfinite()
    whole.train()
    stepped.train()
    assert bits(whole.state) == bits(stepped.state)
    looped = trainer()
    *_, (state, _) = fnopt.run(looped.step, looped.state, looped.data, updates=18)
    assert bits(state) == bits(whole.state)


def test_a_training_leaves_torch_as_it_was():
    """Random state, grad mode and determinism are the caller's again."""
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    trained(deterministic=True)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()
