"""Bad batches, losses and loaders: one sentence that names what is wrong, and the state as it was."""

import itertools

import pytest
import torch
from step_cases import ended, identical, untouched
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fnopt import (
    SGD,
    BatchError,
    Batches,
    FnoptError,
    Stream,
    accumulate,
    compiled,
    ensemble,
    evaluate,
    make_step,
    run,
    snapshot,
    value_and_grad,
)
from fnopt.errors import DataExhaustedError, EmptyDataError, LossError, StructureError, UsageError

GOOD = {"x": torch.ones(2, 4), "y": torch.tensor([0, 1])}
WAYS = {
    "step": lambda step: step,
    "compiled": compiled,
    "ensemble": lambda step: ensemble(step, 2),
}


class Listed:
    """These batches, once."""

    def __init__(self, *batches):
        self.batches = batches

    def iter_from(self, position):
        return itertools.islice(self.batches, position, None)


def classifier(wrap=lambda grad_fn: grad_fn):
    """(step, first state) of a linear classifier of {"x": float, "y": int}."""
    model = nn.Linear(4, 3)

    def loss(model, batch):
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="sum"), len(batch["y"])

    step = make_step(wrap(value_and_grad(model, loss)), SGD(0.1))
    return step, step.init_state(model)


@pytest.mark.parametrize("way", WAYS)
def test_a_leaf_of_another_dtype_is_named(way):
    """Not an error from deep inside a layer: which leaf, what it is, what params are, and what torch said."""
    step, _ = classifier()
    step = WAYS[way](step)
    state = step.init_state(nn.Linear(4, 3))
    with untouched(state), pytest.raises(BatchError) as caught:
        step.step(state, {**GOOD, "x": GOOD["x"].double()})
    text = str(caught.value)
    assert text.startswith("loss: batch['x'] is torch.float64 on cpu, expected torch.float32 on cpu as params are; ")
    assert "torch says: " in text
    assert isinstance(caught.value, RuntimeError)
    assert type(caught.value.__cause__) is RuntimeError
    step.step(state, GOOD)


def test_a_leaf_on_another_device_is_named():
    """The meta device stands for any other; `evaluate` says the same."""
    step, state = classifier()
    with untouched(state), pytest.raises(BatchError, match=r"batch\['x'\] is torch.float32 on meta, .* on cpu as"):
        step.step(state, {**GOOD, "x": GOOD["x"].to("meta")})


def test_another_dtype_that_the_loss_can_use_is_no_error():
    """The control of a check in advance: a float64 weight, cast by the loss, trains."""
    params = {"w": torch.ones(4)}

    def loss(params, batch):
        return (F.linear(batch["x"].float(), params["w"]) * batch["weights"]).sum(), 2

    step = make_step(value_and_grad(loss), SGD(0.1))
    batch = {"x": GOOD["x"].double(), "weights": torch.ones(2, dtype=torch.float64)}
    ended(run(step, step.init_state(params), Listed(batch, batch), 2))


def test_an_error_that_no_leaf_explains_stays_itself():
    """Wrong shapes are told by torch, a user's exceptions are the user's; also where a dtype is odd."""
    step, state = classifier()
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes") as caught:
        ended(run(step, state, Listed({**GOOD, "x": torch.ones(2, 5)}), 1))
    assert not isinstance(caught.value, FnoptError)

    class Own(RuntimeError):
        """A user's."""

    def loss(params, batch):
        raise Own

    step = make_step(value_and_grad(loss), SGD(0.1))
    with pytest.raises(Own):
        step.step(step.init_state({"w": torch.ones(2)}), torch.ones(2, dtype=torch.float64))


OTHERS = {
    "missing": ({"x": GOOD["x"]}, r"batch\['y'\] is missing, expected a torch.int64 tensor of 1 dimensions"),
    "dtype": ({**GOOD, "y": GOOD["y"].float()}, r"batch\['y'\] is a torch.float32 tensor.*expected a torch.int64"),
    "dimensions": ({**GOOD, "y": torch.ones(2, 2, 2).long()}, r"batch\['y'\] is a torch.int64 tensor of 3 dimensions"),
    "kind": ({**GOOD, "y": "text"}, r"batch\['y'\] is a str, expected"),
    "tuple": ((GOOD["x"], GOOD["y"]), r"batch\['x'\] is missing, expected a torch.float32 tensor of 2 dimensions"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("lists", [False, True])
def test_a_batch_that_is_not_like_the_first_is_named(case, lists):
    """Where a step fails, the leaf that differs from the first batch of the run, also in a micro-batch."""
    other, message = OTHERS[case]
    step, state = classifier(accumulate if lists else lambda grad_fn: grad_fn)
    data = Listed([GOOD, GOOD], [GOOD, other]) if lists else Listed(GOOD, other)
    message = message.replace("batch", r"batch\[1\]", 1) if lists else message
    seen = []
    with pytest.raises(BatchError, match=rf"run: {message}.* as in the first batch"):
        seen.extend(run(step, state, data, 3))
    after, _ = step.step(state, [GOOD, GOOD] if lists else GOOD)
    assert identical(seen[-1][0], after)


def test_batches_may_differ_where_the_loss_can_use_them():
    """The control: another structure alone is no error; nor is a shorter list at the end of an epoch."""

    def loss(params, batch):
        x = batch["x"] if isinstance(batch, dict) else batch
        return (params["w"] * x).sum(), len(x)

    step = make_step(accumulate(value_and_grad(loss)), SGD(0.1))
    data = Listed([GOOD, GOOD["x"]], [GOOD["x"]])
    assert int(ended(run(step, step.init_state({"w": torch.ones(4)}), data, 2)).updates) == 2


# Losses


LOSSES = {
    "a number": (lambda y: (y.sum().item(), 2), r"the loss sum is a float.* without \.item\(\)"),
    "an int": (lambda y: 3, r"returned a int, expected \(loss_sum, weight\)"),
    "a tuple of one": (lambda y: (y.sum(),), r"returned a tuple of 1, expected \(loss_sum, weight\)"),
    "a vector": (lambda y: (y.detach(), 2), r"a tensor of shape \[2, 3\] and torch.float32, requires_grad False"),
    "a detached sum": (
        lambda y: (y.sum().detach(), 2),
        r"the loss \(shape \[\], requires_grad False\) does not",
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", LOSSES)
def test_a_loss_is_told_its_shape_its_grad_and_what_to_return(case, way):
    """In every kind of step, before the state has changed."""
    part, message = LOSSES[case]
    if (case, way) == ("a number", "ensemble"):  # vmap itself refuses .item(), and says so
        message = "calling .item"
    model = nn.Linear(4, 3)
    step = WAYS[way](make_step(value_and_grad(model, lambda model, batch: part(model(batch["x"]))), SGD(0.1)))
    state = step.init_state(model)
    with untouched(state), pytest.raises((LossError, RuntimeError), match=message):
        step.step(state, GOOD)


# Loaders, and nothing to train


def test_a_loader_shorter_than_one_window_is_one_update():
    """The window of an epoch is what is left of it: the gradient is that of the batch as a whole."""
    x = torch.arange(12.0).reshape(3, 4)
    step = make_step(accumulate(value_and_grad(lambda params, x: ((params["w"] * x[0]).sum(), len(x[0])))), SGD(0.1))
    state = step.init_state({"w": torch.ones(4)})
    expected, _ = step.step(state, [(x,)])
    for data in (
        Batches(TensorDataset(x), 1, micro_batches=8, shuffle=False),
        Stream(DataLoader(TensorDataset(x), batch_size=1), micro_batches=8),
    ):
        new = ended(run(step, state, data, 1))
        assert torch.allclose(new.params["w"], expected.params["w"], rtol=1e-6)
        assert int(ended(run(step, state, data, 3)).updates) == 3  # an epoch each


LOADERS = {
    "no samples": (lambda: Batches([], 2), EmptyDataError, "the dataset has 0 samples"),
    "dropped": (lambda: Batches([1.0], 2, tail="drop"), EmptyDataError, 'tail="drop" makes 0 updates'),
    "empty loader": (
        lambda: Stream(DataLoader(TensorDataset(torch.ones(1)), batch_size=2, drop_last=True)),
        EmptyDataError,
        "the source yields nothing",
    ),
    "used up": (lambda: Stream(iter([torch.ones(2)])), DataExhaustedError, "the source ended after 1 and can be"),
    "ended": (lambda: Listed(torch.ones(2)), DataExhaustedError, "data ended at position 1 with 1 updates applied"),
    "a loader": (lambda: DataLoader([1.0]), UsageError, r"data is a DataLoader, .*fnopt\.Stream"),
    "epochs": (lambda: len(Stream([1.0])), UsageError, "Stream has no length.*give the number of updates"),
}  # fmt: skip


@pytest.mark.parametrize("case", LOADERS)
def test_a_loader_that_cannot_serve_says_so(case):
    """Empty, used up, or of the wrong kind; the last good state was handed over."""
    make, error, message = LOADERS[case]
    step = make_step(value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x))), SGD(0.1))
    state = step.init_state({"w": torch.ones(())})
    with untouched(state), pytest.raises(error, match=message):
        ended(run(step, state, make(), 3))


def test_nothing_to_train_is_said_before_the_first_step():
    """Every parameter frozen: torch's optimizers refuse an empty list of parameters, too."""
    model = nn.Linear(4, 3).requires_grad_(False)
    step = make_step(value_and_grad(model, lambda model, batch: (model(batch["x"]).sum(), 2)), SGD(0.1))
    state = step.init_state(model)
    with pytest.raises(StructureError, match=r"no params, expected at least one.*\['weight', 'bias'\].*requires_grad_"):
        next(run(step, state, Listed(GOOD), 1))
    with pytest.raises(ValueError, match="empty parameter list"):
        torch.optim.SGD([])


def test_an_empty_loader_is_nothing_to_evaluate():
    """Not a mean of nothing."""
    model = nn.Linear(4, 3)
    step, _ = classifier()
    with pytest.raises(EmptyDataError, match="is the loader empty"):
        evaluate(model, lambda model, x: (model(x).sum(), 1), snapshot(step.init_state(model)), DataLoader([]))
