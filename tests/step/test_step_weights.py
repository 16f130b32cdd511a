"""What a step divides by: any weight above 0, also below 1; nothing where there is none."""

import pytest
import torch

from fnopt import SGD, make_step
from fnopt.grads import Graded


def step_of(weight, loss=3.0):
    """A step on gradients of [1, 2] with this weight, whatever the batch, from params of zeros."""

    def grad_fn(state, _):
        grads, total = {"w": torch.tensor([1.0, 2.0])}, torch.tensor(loss)
        return Graded(grads, total, torch.tensor(weight), {}, {"hits": torch.tensor(6.0)}, torch.tensor(0))

    step = make_step(grad_fn, SGD(1.0))
    return step.step(step.init_state({"w": torch.zeros(2)}), None)


@pytest.mark.parametrize("weight", [0.25, 0.5, 1.0, 2.0, 1024.0])
def test_any_weight_above_zero_divides(weight):
    """Params move by the gradient over the weight; loss, aux and norm are reported over it."""
    state, metrics = step_of(weight)
    assert state.params["w"].tolist() == [-1.0 / weight, -2.0 / weight]
    assert metrics["loss"] == 3.0 / weight
    assert metrics["hits"] == 6.0 / weight
    assert metrics["grad_norm"] == torch.tensor(5.0).sqrt() / weight
    assert (int(metrics["skipped"]), int(state.updates), state.position) == (0, 1, 1)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_without_weight_sums_are_reported_as_they_are(weight):
    """A weight of 0 (or below) divides nothing, moves nothing and counts as skipped."""
    state, metrics = step_of(weight)
    assert state.params["w"].tolist() == [0.0, 0.0]
    assert metrics["loss"] == 3.0
    assert metrics["hits"] == 6.0
    assert metrics["grad_norm"] == torch.tensor(5.0).sqrt()
    assert (int(metrics["skipped"]), int(state.updates), state.position) == (1, 0, 1)


def test_metrics_have_these_names():
    """The names of metrics, their order, and that each is a 0-d tensor, are what loggers rely on."""
    _, metrics = step_of(1.0)
    names = ["loss", "weight", "grad_norm", "clip_coef", "lr", "loss_scale", "skipped", "dropped", "hits"]
    assert list(metrics) == names
    assert all(isinstance(value, torch.Tensor) and value.ndim == 0 for value in metrics.values())
