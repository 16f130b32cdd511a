"""What passes through accumulate from one micro-batch to the next, under autocast, and its errors."""

import copy

import pytest
import torch
from step_cases import identical, make_batch, make_model, nonfinite_loss, squared
from torch import nn

from fnopt import SGD, TrainState, accumulate, autocast, make_step, value_and_grad
from fnopt.errors import EmptyDataError, LossError, UsageError
from fnopt.randomness import mix


def test_buffers_pass_from_each_micro_batch_to_the_next():
    """BatchNorm's statistics after three micro-batches are those of three forward passes of the live module."""
    model = make_model("batch_norm", 0)
    grad_fn = accumulate(value_and_grad(model, squared))
    batches = [make_batch(seed, 3 + seed) for seed in range(3)]
    graded = grad_fn(make_step(grad_fn, SGD(0.1)).init_state(model), batches)
    peer = copy.deepcopy(model)
    for batch in batches:
        squared(peer, batch)
    assert identical(graded.buffers, dict(peer.named_buffers()))
    assert int(graded.buffers["1.num_batches_tracked"]) == 3


def test_seeds_of_micro_batches_are_a_formula():
    """Micro-batch i > 0 of a list of depth d has the seed mix(seed, i, d), the first that of the whole: for ever."""
    seen = []

    def grad_fn(state, batch):
        seen.append(state.seed)
        return value_and_grad(lambda p, x: (p["w"] * x, 1))(state, batch)

    one = torch.ones(())
    state = TrainState.of({"w": torch.ones(())}, seed=5)
    accumulate(grad_fn)(state, [one, one, one])
    assert seen == [5, mix(5, 1, 1), mix(5, 2, 1)]
    seen.clear()
    accumulate(accumulate(grad_fn))(state, [[one, one], [one, one]])
    assert seen == [5, mix(5, 1, 1), mix(5, 1, 2), mix(mix(5, 1, 2), 1, 1)]


def test_aux_adds_up():
    """Aux are sums as the loss is; names must be the same in every micro-batch."""
    grad_fn = accumulate(value_and_grad(lambda p, x: (p["w"] * x.sum(), len(x), {f"n{len(x) // 9}": x.max(), "k": 1})))
    state = TrainState.of({"w": torch.ones(())})
    graded = grad_fn(state, [torch.tensor([1.0, 5.0]), torch.tensor([2.0])])
    assert identical(graded.aux, {"n0": torch.tensor(7.0), "k": torch.tensor(2.0)})
    with pytest.raises(LossError, match=r"aux has the names \['k', 'n0'\] and then \['k', 'n1'\]"):
        grad_fn(state, [torch.ones(1), torch.ones(9)])


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ((1, 2), UsageError, r"expected a list of micro-batches.*Batches micro_batches=, or leave accumulate out"),
        (torch.ones(2), UsageError, "got a Tensor, expected a list"),
        (iter([1]), UsageError, "got a list_iterator, expected a list"),
        ([], EmptyDataError, "an empty list, expected at least one micro-batch"),
        ([[]], UsageError, r"value_and_grad: got a list, expected one Batch"),
    ],
)
def test_anything_but_a_list_is_refused(batches, error, message):
    """A tuple is one Batch and a list is micro-batches: the wrong one is never guessed at."""
    grad_fn = accumulate(value_and_grad(lambda p, x: (p["w"] * x, 1)))
    with pytest.raises(error, match=message):
        grad_fn(TrainState.of({"w": torch.ones(())}), batches)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["mlp", "both", "shared"])
def test_autocast_works_inside_and_outside(kind, dtype):
    """Around accumulate or inside it, autocast is the same to the bit, and not the same as float32."""
    model = make_model(kind, 0)
    grad_fn = value_and_grad(model, squared)
    state = make_step(grad_fn, SGD(0.1)).init_state(model)
    batches = [make_batch(seed, 3 + seed) for seed in range(3)]
    inside = accumulate(autocast(grad_fn, dtype))(state, batches)
    outside = autocast(accumulate(grad_fn), dtype)(state, batches)
    assert inside == outside
    full = accumulate(grad_fn)(state, batches)
    assert not identical(full.grads, inside.grads)
    largest = max(leaf.abs().max() for leaf in full.grads.values())
    for name, leaf in full.grads.items():
        assert inside.grads[name].dtype == torch.float32
        # 2^-8 is bfloat16's rounding; tens of them meet in a gradient of two layers and 12 samples
        assert (inside.grads[name] - leaf).abs().max() <= 0.25 * largest


def test_bfloat16_parameters_add_up_in_float32():
    """Small gradients after a large one are not swallowed: 256 + 64 times 0.5 is 288, which bfloat16 cannot add up."""
    params = {"w": torch.ones(1, dtype=torch.bfloat16)}
    grad_fn = accumulate(value_and_grad(lambda p, x: ((p["w"] * x).sum(), 1)))
    parts = [torch.tensor([x], dtype=torch.bfloat16) for x in (256.0, *[0.5] * 64)]
    assert grad_fn(TrainState.of(params), parts).grads["w"].item() == 288.0
    total = torch.zeros(1, dtype=torch.bfloat16)
    for part in parts:
        total = total + part
    assert total.item() == 256.0


def test_dropout_differs_between_micro_batches():
    """The same batch twice does not drop the same entries twice."""
    model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 4))
    grad_fn = value_and_grad(model, squared)
    state = make_step(grad_fn, SGD(0.1)).init_state(model)
    batch = make_batch(0)
    once, twice = grad_fn(state, batch).grads, accumulate(grad_fn)(state, [batch, batch]).grads
    assert not any(identical(twice[name], 2 * once[name]) for name in once)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_either_makes_a_micro_batch_bad(kind):
    """A finite gradient of an infinite loss is dropped, and a finite loss with an infinite gradient too."""
    grad_fn = accumulate(value_and_grad(nonfinite_loss), drop_nonfinite=True)
    graded = grad_fn(TrainState.of({"w": torch.ones(2)}), ["good", kind, "good"])
    assert [graded.loss, graded.weight, int(graded.dropped)] == [4.0, 2.0, 1]
    assert identical(graded.grads, {"w": torch.full((2,), 2.0)})
