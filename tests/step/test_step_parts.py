"""What a step reports, its record, and the mistakes that it names."""

import pickle

import pytest
import torch
from step_cases import identical, make_batch, make_model, squared
from torch import nn

from fnopt import (
    SGD,
    AdamW,
    ClipNorm,
    DynamicLossScale,
    StaticLossScale,
    TrainState,
    accumulate,
    chain,
    ema,
    evolve,
    freeze,
    linear,
    make_step,
    partition,
    value_and_grad,
)
from fnopt.errors import HyperparameterError, StructureError, UsageError


def counted(model, batch):
    """A loss with sums to report."""
    total, n = squared(model, batch)
    return total, n, {"hits": n - 2, "error": total.detach() * 3}


def test_metrics_of_a_plain_step():
    """Names in a fixed order, every value a 0-d tensor that needs no grad."""
    model = make_model("mlp", 0)
    step = make_step(value_and_grad(model, counted), SGD(0.1))
    _, metrics = step.step(step.init_state(model), make_batch(0))
    names = ["loss", "weight", "grad_norm", "clip_coef", "lr", "loss_scale", "skipped", "dropped", "hits", "error"]
    assert list(metrics) == names
    assert all(type(value) is torch.Tensor and not value.ndim and not value.requires_grad for value in metrics.values())


def test_values_of_metrics():
    """The mean loss, the norm of the mean gradient before transforms, the coefficient of the clip, aux over weight."""
    model = make_model("mlp", 0)
    step = make_step(accumulate(value_and_grad(model, counted)), chain(ClipNorm(0.25), SGD(0.1)))
    state, batches = step.init_state(model), [make_batch(0, 2), make_batch(1, 6)]
    graded = step.grad_fn(state, batches)
    new, metrics = step.step(state, batches)
    total = sum(squared(model, batch)[0] for batch in batches).detach()
    assert torch.isclose(metrics["loss"], total / 8, rtol=1e-6)
    assert torch.isclose(metrics["error"], 3 * metrics["loss"], rtol=1e-6)
    assert [metrics["weight"], metrics["hits"]] == [8.0, 4 / 8]
    norm = torch.cat([leaf.flatten() for leaf in graded.grads.values()]).double().norm() / 8
    assert torch.isclose(metrics["grad_norm"].double(), norm, rtol=1e-6)
    assert norm > 0.25
    assert torch.isclose(metrics["clip_coef"].double(), 0.25 / norm, rtol=1e-6)
    moved = torch.cat([(new.params[name] - leaf).flatten() for name, leaf in state.params.items()]).double().norm()
    assert torch.isclose(moved, torch.tensor(0.1 * 0.25).double(), rtol=1e-5)
    assert [metrics["loss_scale"], int(metrics["skipped"]), int(metrics["dropped"])] == [1.0, 0, 0]


def test_lr_is_that_of_this_update():
    """A schedule is reported at `updates` before it is incremented: the value that this update used."""
    model = make_model("mlp", 0)
    step = make_step(value_and_grad(model, squared), SGD(linear(1.0, 0.0, steps=4)))
    state = step.init_state(model)
    for expected in (1.0, 0.75, 0.5, 0.25, 0.0):
        before = state.params
        graded = step.grad_fn(state, make_batch(0))
        state, metrics = step.step(state, make_batch(0))
        assert metrics["lr"] == expected
        by_hand = torch.add(before["0.bias"], graded.grads["0.bias"] / 8, alpha=-expected)
        assert identical(state.params["0.bias"], by_hand)


def test_lr_of_each_label():
    """A partition reports the rate of each part, and the first one as `lr`; two clips are told apart by their path."""
    model = nn.Linear(4, 4)
    labels = {"weight": "slow", "bias": "fast"}
    parts = {
        "slow": chain(ClipNorm(1e-3), SGD(linear(0.5, 0.0, steps=2))),
        "fast": chain(ClipNorm(1e-6), ema(AdamW(torch.tensor(0.25)), 0.9)),
    }
    step = make_step(value_and_grad(model, squared), partition(parts, labels))
    _, metrics = step.step(step.init_state(model), make_batch(0))
    assert [metrics[name].item() for name in ("lr", "lr/slow", "lr/fast")] == [0.5, 0.5, 0.25]
    clips = [name for name in metrics if name.startswith("clip_coef")]
    assert clips == ["clip_coef", "clip_coef/fast/ClipNorm"]
    assert metrics[clips[1]] < metrics[clips[0]] < 1


def test_an_optimizer_without_lr_reports_none():
    """No number is made up; a frozen part is no part."""

    class Still:
        def init_state(self, params):
            return {}

        def update(self, grads, state, params):
            return dict(params), state

    model = nn.Linear(4, 4)
    step = make_step(value_and_grad(model, squared), Still())
    new, metrics = step.step(step.init_state(model), make_batch(0))
    assert "lr" not in metrics
    assert int(new.updates) == 1
    step = make_step(value_and_grad(model, squared), freeze(SGD(0.5), "weight"))
    _, metrics = step.step(step.init_state(model), make_batch(0))
    assert [name for name in metrics if name.startswith("lr")] == ["lr"]


def test_no_weight_at_all_is_skipped():
    """0 / 0 is no update and no nan: the mean loss is 0, and the overflow counter of the scale does not back off."""
    model = make_model("mlp", 0)
    step = make_step(
        value_and_grad(model, lambda m, b: (squared(m, b)[0], 0)), AdamW(0.1), loss_scale=DynamicLossScale()
    )
    state = step.init_state(model)
    new, metrics = step.step(state, make_batch(0))
    assert identical(new, evolve(state, position=1, loss_scale=new.loss_scale))
    assert [metrics["loss"], metrics["weight"], metrics["grad_norm"], int(metrics["skipped"])] == [0.0, 0.0, 0.0, 1]
    assert new.loss_scale["scale"] == 2.0**16


# The record


def build(lr=0.1):
    model = make_model("both", 0)
    optimizer = chain(ClipNorm(1.0), AdamW(lr))
    return model, make_step(accumulate(value_and_grad(model, squared)), optimizer, loss_scale=StaticLossScale(8.0))


def test_a_step_prints_itself():
    """The repr shows every hyperparameter, and the model as torch does."""
    _, step = build()
    text = repr(step)
    assert text.startswith("Step(grad_fn=Accumulate(grad_fn=ValueAndGrad(")
    for part in (
        "ClipNorm(max_norm=1.0)",
        "AdamW(lr=0.1, betas=(0.9, 0.999)",
        "StaticLossScale(scale=8.0)",
        "BatchNorm1d",
    ):
        assert part in text


def test_a_step_pickles_with_its_module():
    """What comes back takes the same step to the bit, with a module of its own."""
    model, step = build()
    state, batches = step.init_state(model), [make_batch(0), make_batch(1)]
    again = pickle.loads(pickle.dumps(step))
    assert identical(again.step(state, batches), step.step(state, batches))
    assert again.optimizer == step.optimizer
    assert again.grad_fn.grad_fn.forward.model is not model
    assert again != step  # modules are equal if they are the same one
    assert pickle.loads(pickle.dumps(state)) == state


def test_a_step_compares_by_its_parts():
    """Two steps of the same model, loss and numbers are equal; any other number makes another step."""
    model, step = build()
    same = make_step(accumulate(value_and_grad(model, squared)), step.optimizer, loss_scale=StaticLossScale(8.0))
    assert same == step
    assert hash(same) == hash(step)
    assert evolve(step, loss_scale=StaticLossScale(4.0)) != step
    assert build()[1] != step


def test_evolve_changes_a_hyperparameter():
    """A variant of a step is a plain call, and does what one made so from the start does."""
    model, step = build(lr=0.1)
    state, batches = step.init_state(model), [make_batch(0)]
    optimizer = evolve(step.optimizer, optimizer=evolve(step.optimizer.optimizer, lr=0.5))
    variant = evolve(step, optimizer=optimizer)
    fresh = make_step(step.grad_fn, chain(ClipNorm(1.0), AdamW(0.5)), loss_scale=step.loss_scale)
    assert variant == fresh
    assert identical(variant.step(state, batches), fresh.step(state, batches))
    assert variant.step(state, batches)[1]["lr"] == 0.5
    assert not identical(variant.step(state, batches)[0].params, step.step(state, batches)[0].params)


# Mistakes


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            ClipNorm(1.0),
            r"ClipNorm only transforms gradients; end it with an Optimizer: chain\(ClipNorm\(…\), SGD\(lr\)\)",
        ),
        (chain(ClipNorm(1.0)), "ChainedTransform only transforms gradients"),
        (AdamW, r"got the class AdamW, expected an instance; write AdamW\(…\)"),
        (
            torch.optim.AdamW([torch.zeros(1)]),
            r"a stateful AdamW that holds its own params.*write fnopt\.AdamW\(lr=…\)",
        ),
        (None, "got None, expected a record with init_state and update"),
        (lambda grads: grads, "expected a record with init_state and update"),
    ],
)
def test_what_is_no_pure_optimizer_is_refused(optimizer, message):
    """At construction, with what to write instead."""
    with pytest.raises(UsageError, match=f"make_step: .*{message}"):
        make_step(value_and_grad(lambda p, x: (p["w"].sum(), 1)), optimizer)


def test_a_grad_fn_is_a_function():
    """A loss value, or None, in its place is refused."""
    with pytest.raises(UsageError, match=r"make_step: grad_fn is None, expected value_and_grad\(model, loss\)"):
        make_step(None, SGD(0.1))


@pytest.mark.parametrize("seed", [-1, 1.0, True, "0", None])
def test_a_seed_is_an_int(seed):
    """Nothing else is a place in the space of seeds."""
    model, step = build()
    with pytest.raises(HyperparameterError, match=r"init_state: seed must be an int >= 0, got"):
        step.init_state(model, seed=seed)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (dict(nn.Linear(1, 1).named_parameters()), UsageError, r"'weight' is an nn.Parameter.*params_of\(model\)"),
        ([torch.ones(1)], UsageError, r"params must be a dict of tensors, got list; fnopt\.params_of"),
        ({"n": torch.ones(1, dtype=torch.int64)}, StructureError, "'n' has dtype torch.int64.*belongs to the buffers"),
    ],
)
def test_params_are_plain_tensors(params, error, message):
    """init_state takes a module or a dict of tensors that no module owns."""
    _, step = build()
    with pytest.raises(error, match=message):
        step.init_state(params)


def test_a_state_is_of_a_step():
    """A bare TrainState, which has no loss scale, is told how to become one of a step."""
    step = make_step(value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x))), SGD(0.1))
    with pytest.raises(StructureError, match="init_state"):
        step.step(TrainState.of({"w": torch.ones(())}), torch.ones(2))
