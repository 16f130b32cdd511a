"""value_and_grad on one trap of a module each, and the errors that name the fix."""

import copy

import pytest
import torch
from step_cases import identical, make_batch, make_model, portrait, squared, untouched
from torch import nn

from fnopt import SGD, TrainState, accumulate, buffers_of, evaluate, evolve, make_step, params_of, value_and_grad
from fnopt.errors import DistributedModuleError, LossError, StructureError, UsageError


def state_of_model(model, loss=squared, seed=0):
    return make_step(value_and_grad(model, loss), SGD(0.1)).init_state(model, seed=seed)


def test_a_submodule_on_two_paths_keeps_its_live_weights():
    """Weights other than the module's own go in, and its own are there afterwards (pytorch #164759: they were not)."""
    model = make_model("shared", 0)
    state = state_of_model(model)
    assert list(state.params) == ["gain", "a.weight", "a.bias"]  # each once, by its canonical name
    before = portrait(model)
    moved = evolve(state, params={name: leaf * 2 + 1 for name, leaf in state.params.items()})
    graded = value_and_grad(model, squared)(moved, make_batch(1))
    assert portrait(model) == before
    assert model.b is model.a
    assert model.head.weight is model.a.weight
    peer = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in peer.named_parameters():
            p.copy_(moved.params[name])
    squared(peer, make_batch(1))[0].backward()
    assert identical(graded.grads, {name: p.grad for name, p in peer.named_parameters()})


def test_frozen_parameters_are_buffers():
    """What does not require grad has no gradient, is handed on as it is, and passes gradients through."""
    model = make_model("partial", 0)
    state = state_of_model(model)
    assert sorted(state.buffers) == ["frozen.bias", "frozen.weight"]
    assert not state.params.keys() & state.buffers.keys()
    graded = value_and_grad(model, squared)(state, make_batch(0))
    assert graded.grads.keys() == state.params.keys()
    assert graded.grads["first.weight"].ne(0).all()
    assert all(graded.buffers[name] is state.buffers[name] for name in state.buffers)  # nobody copies a frozen model


def test_unused_parameters_have_zeros():
    """Not None and not missing: eager and traced steps then decay alike."""
    model = make_model("partial", 0)
    graded = value_and_grad(model, squared)(state_of_model(model), make_batch(0))
    assert identical(graded.grads["unused.weight"], torch.zeros(2, 2))
    assert identical(graded.grads["unused.bias"], torch.zeros(2))


@pytest.mark.parametrize("parts", [(), ("0.1",), ("2",), ("0.1", "2"), ("", "0", "0.1", "1", "1.1", "2")])
def test_modes_of_the_module_are_honoured(parts):
    """Each part runs in the mode that it is in at the time of the call: dropout and statistics follow."""
    model = make_model("both", 0)
    grad_fn, state = value_and_grad(model, squared), state_of_model(model)
    for part in parts:
        model.get_submodule(part).training = False
    graded = grad_fn(state, make_batch(0))
    changed = {name for name in state.buffers if not identical(graded.buffers[name], state.buffers[name])}
    assert {name.rpartition(".")[0] for name in changed} == {"0.1", "2"} - set(parts)
    other = grad_fn(evolve(state, position=1), make_batch(0))
    assert identical(other.grads, graded.grads) == (not model.get_submodule("1.1").training)


def test_non_persistent_buffers_belong_to_the_state():
    """What no state_dict shows may still be read by the next forward pass."""
    model = make_model("assigning", 0)
    assert "hidden" in buffers_of(model)
    assert "hidden" not in model.state_dict()
    graded = value_and_grad(model, squared)(state_of_model(model), make_batch(0))
    assert graded.buffers["hidden"] != 0


class Distributed:
    """Stand-ins: the real ones need a process group."""

    class DistributedDataParallel(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    class FSDPModule:
        pass

    class FSDPLinear(FSDPModule, nn.Linear):
        pass


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Distributed.DistributedDataParallel(nn.Linear(1, 1)), "DistributedDataParallel"),
        (Distributed.FSDPLinear(1, 1), "FSDPModule"),
        (nn.DataParallel(nn.Linear(1, 1)), "DataParallel"),
        (nn.Sequential(nn.Linear(1, 1), nn.DataParallel(nn.Linear(1, 1))), "DataParallel"),
    ],
)
def test_distributed_modules_are_refused(model, name):
    """Their hooks would not run and gradients silently not be reduced: an error that says so, also where nested."""
    with pytest.raises(DistributedModuleError, match=rf"a {name}, .*would not be reduced.*model\.module"):
        value_and_grad(model, squared)
    with pytest.raises(DistributedModuleError, match=name):
        evaluate(model, squared, TrainState.of({}), [])


def linear_loss(part):
    """A loss that returns part(output of the model)."""
    return lambda model, batch: part(model(batch[0]))


LOSSES = {
    "a mean": (lambda y: y.mean(), r"a tensor of shape \[\] and torch.float32.*\(mean \* n, n\).*reduction=\"sum\""),
    "a list": (lambda y: [y.sum(), 8], "returned a list, expected"),
    "four": (lambda y: (y.sum(), 8, {}, {}), "returned a tuple of 4, expected"),
    "nothing": (lambda y: None, "returned a NoneType"),
    "no sum": (lambda y: (y, 8), r"the loss sum is a tensor of shape \[8, 4\].*call .sum\(\)"),
    "a number": (lambda y: (y.sum().item(), 8), "the loss sum is a float"),
    "an int": (lambda y: (y.sum().long(), 8), "the loss sum is a tensor of shape .* and torch.int64"),
    "complex": (lambda y: (y.sum() + 1j, 8), "torch.complex64, expected a 0-d floating-point"),
    "detached": (lambda y: (y.sum().detach(), 8), "does not depend on any parameter.*not a detached"),
    "negative": (lambda y: (y.sum(), -1), r"the weight is -1, expected the number of tokens or samples, >= 0"),
    "weights": (
        lambda y: (y.sum(), torch.ones(3)),
        r"the weight is a tensor of shape \[3\].*expected a number or a 0-d",
    ),
    "no weight": (lambda y: (y.sum(), None), "the weight is a NoneType"),
    "text aux": (lambda y: (y.sum(), 8, {"hits": "many"}), r"aux\['hits'\] is a str"),
    "wide aux": (lambda y: (y.sum(), 8, {"hits": y}), r"aux\['hits'\] is a tensor of shape \[8, 4\]"),
    "output": (lambda y: (y.sum(), 8, y), r"aux is a tensor of shape \[8, 4\].*expected a dict of sums"),
    "taken": (lambda y: (y.sum(), 8, {"loss": 1.0, "lr": 2.0}), r"aux has \['loss', 'lr'\], which a step reports"),
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_wrong_loss_is_told_so(case):
    """Whatever is no (sum, weight) is a LossError that says what came and what to write."""
    part, message = LOSSES[case]
    model = nn.Linear(4, 4)
    with pytest.raises(LossError, match=message):
        value_and_grad(model, linear_loss(part))(state_of_model(model), make_batch(0))


def test_wrong_calls_are_told_so():
    """A list for a batch, a module without a loss, the two in the wrong order."""
    model = nn.Linear(4, 4)
    with pytest.raises(UsageError, match=r"got a list, .*accumulate\(grad_fn\).*tuple\(batch\)"):
        value_and_grad(model, squared)(state_of_model(model), list(make_batch(0)))
    with pytest.raises(UsageError, match=r"a module and no loss, expected value_and_grad\(model, loss\)"):
        value_and_grad(model)
    with pytest.raises(UsageError, match=r"got a function first, expected value_and_grad\(model, loss\)"):
        value_and_grad(squared, model)


def test_params_that_require_grad_are_refused():
    """The eager path would cut the graph: hypergradients must go through torch.func.grad."""
    params = {"w": torch.ones(2, requires_grad=True), "b": torch.ones(2)}
    state = TrainState.of({name: p.detach() for name, p in params.items()})
    with pytest.raises(StructureError, match=r"params \['w'\] require grad.*torch\.func\.grad"):
        value_and_grad(lambda p, x: (p["w"].sum(), 1))(evolve(state, params=params), None)


def test_a_state_of_another_model_is_refused():
    """Names that the state lacks are listed, with the way to make the right state."""
    model = nn.Linear(4, 4)
    with pytest.raises(StructureError, match=r"the state has no \['bias'\] of Linear; .*init_state\(model\)"):
        value_and_grad(model, squared)(TrainState.of({"weight": torch.ones(4, 4)}), make_batch(0))


class Growing(nn.Module):
    """A cache kept in a buffer, whose shape or dtype changes with the data."""

    def __init__(self, grow):
        super().__init__()
        self.linear, self.grow = nn.Linear(4, 4), grow
        self.register_buffer("cache", torch.zeros(1))

    def forward(self, x):
        self.cache = self.grow(self.cache)
        return self.linear(x)


@pytest.mark.parametrize(
    ("grow", "made"),
    [(lambda cache: cache.repeat(3), r"shape \[3\] and torch.float32"), (torch.Tensor.double, "torch.float64")],
)
def test_buffers_keep_their_structure(grow, made):
    """A state never changes shape or dtype on the way: the select of a skipped step would mix the two."""
    model = Growing(grow)
    with pytest.raises(StructureError, match=rf"made the buffer 'cache' a tensor of .*{made}.*out of the buffers"):
        value_and_grad(model, squared)(state_of_model(model), make_batch(0))


def test_a_forward_pass_that_writes_into_parameters_is_refused():
    """nn.Embedding(max_norm=…) shrinks its weight in place, which a pure step may not; a frozen one is as bad."""
    model = nn.Embedding(5, 4, max_norm=0.1)
    tokens = torch.tensor([0, 1])
    with pytest.raises(UsageError, match=r"wrote into \['weight'\] in place.*max_norm is None"):
        value_and_grad(model, lambda model, x: (model(x).sum(), 2))(state_of_model(model), tokens)

    def loss(model, batch):
        with torch.no_grad():
            model.frozen.bias.add_(1)
        return squared(model, batch)

    model = make_model("partial", 0)
    with pytest.raises(UsageError, match=r"wrote into \['frozen.bias'\]"):
        value_and_grad(model, loss)(state_of_model(model), make_batch(0))


def test_sparse_gradients_are_refused():
    """nn.Embedding(sparse=True) gets the fix, not an error from inside torch."""
    model = nn.Embedding(5, 4, sparse=True)
    with pytest.raises(StructureError, match=r"'weight' has layout torch.sparse_coo.*sparse=False"):
        value_and_grad(model, lambda model, x: (model(x).sum(), 2))(state_of_model(model), torch.tensor([0, 1]))


def test_params_of_shares_nothing_with_the_module():
    """The copies are plain tensors with memory of their own, in both directions."""
    model = make_model("both", 0)
    params, buffers = params_of(model), buffers_of(model)
    before = portrait(model)
    for leaf in (*params.values(), *buffers.values()):
        assert type(leaf) is torch.Tensor
        assert not leaf.requires_grad
        leaf.zero_()
    assert portrait(model) == before


def test_accumulate_of_a_module_leaves_it_alone():
    """The fold over micro-batches is no exception."""
    model = make_model("both", 0)
    before = portrait(model)
    state = state_of_model(model)
    with untouched(state):
        accumulate(value_and_grad(model, squared))(state, [make_batch(0), make_batch(1)])
    assert portrait(model) == before
