"""@record: frozen values that are pytrees, compare with tensors in them, and check their numbers once."""

import copy
import pickle
from collections.abc import Callable

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from fnopt import SGD, Adam, AdamW, ClipNorm, ClipValue, chain, ema, evolve, partition, record


@record
class Inner:
    rate: float
    name: str = "inner"


@record
class Outer:
    inner: Inner
    pair: tuple[float, Inner]
    table: dict[str, torch.Tensor]
    count: int
    flag: bool
    word: str
    call: Callable[[float], float]
    empty: dict[str, torch.Tensor]


def outer(**changes):
    fields = {
        "inner": Inner(0.5),
        "pair": (1.5, Inner(2.5, "second")),
        "table": {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)},
        "count": 4,
        "flag": True,
        "word": "w",
        "call": abs,
        "empty": {},
    }
    return Outer(**{**fields, **changes})


numbers = st.floats(0.0, 1e6)
rates = st.floats(0.0, 1.0, exclude_max=True)
optimizers = st.builds(
    AdamW,
    lr=numbers,
    betas=st.tuples(rates, rates),
    eps=numbers,
    weight_decay=numbers,
    amsgrad=st.booleans(),
    maximize=st.booleans(),
)
adam_w = AdamW(lr=0.1, betas=(0.2, 0.3), eps=0.4, weight_decay=0.5)


def test_leaves_are_floats_and_tensors():
    """The leaves of a record are its floats and tensors, wherever they are nested, in the order of the fields."""
    assert pytree.tree_leaves(adam_w) == [0.1, 0.2, 0.3, 0.4, 0.5]
    value = outer()
    leaves = pytree.tree_leaves(value)
    assert leaves[:3] == [0.5, 1.5, 2.5]
    assert leaves[3] is value.table["a"]
    assert leaves[4] is value.table["b"]
    assert len(leaves) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"count": 5},
        {"flag": False},
        {"word": "v"},
        {"call": round},
        {"inner": Inner(0.5, "other")},
        {"empty": {"c": 0.1}},
    ],
)
def test_all_else_is_structure(change):
    """Records that differ in an int, a bool, a string or a function have different structures, as traces need."""
    assert pytree.tree_structure(outer()) == pytree.tree_structure(
        outer(table={"a": torch.ones(3), "b": torch.ones(4)})
    )
    assert pytree.tree_structure(outer()) != pytree.tree_structure(outer(**change))


def test_a_schedule_is_structure():
    """A plain function in place of a number is no leaf."""
    assert pytree.tree_leaves(evolve(adam_w, lr=abs)) == [0.2, 0.3, 0.4, 0.5]


@given(optimizers)
def test_flatten_and_unflatten_round_trip(optimizer):
    """A record rebuilt from its leaves and structure equals itself, also inside other records."""
    for value in (optimizer, chain(ClipNorm(1.0), optimizer), partition({"a": optimizer}, {"w": "a"}), outer()):
        leaves, structure = pytree.tree_flatten(value)
        assert pytree.tree_unflatten(leaves, structure) == value


def test_tree_map_runs_no_validator():
    """Tree functions put anything in the place of a number, as vmap, grad and in_dims do."""
    marked = pytree.tree_map(lambda leaf: None, adam_w)
    assert (marked.lr, marked.betas, marked.amsgrad) == (None, (None, None), False)
    assert pytree.tree_map(lambda leaf: -leaf, adam_w).lr == -0.1


@given(optimizers, optimizers)
def test_equal_records_hash_alike(a, b):
    """Records are equal exactly if all their fields are, and then they hash alike."""
    same = all(getattr(a, field.name) == getattr(b, field.name) for field in attrs.fields(AdamW))
    assert (a == b) == same
    twin = evolve(a)
    assert twin is not a
    assert twin == a
    assert hash(chain(ClipNorm(1.0), twin)) == hash(chain(ClipNorm(1.0), a))
    labelled = [partition({"x": one, "y": SGD()}, {"w": "x"}) for one in (a, twin)]
    assert hash(labelled[0]) == hash(labelled[1])


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([1.0, 2.5]),
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([1.0, 2.0], dtype=torch.float64),
        torch.ones(2, device="meta"),
        1.0,
    ],
)
def test_tensors_compare_by_value(other):
    """Tensor fields are equal if dtype, device, shape and values are; the answer is a bool."""
    value = outer()
    assert (value == outer()) is True
    assert (value == outer(table={**value.table, "a": other})) is False
    assert (value != outer(table={"a": value.table["a"]})) is True


def test_records_of_two_classes_differ():
    """A record never equals one of another class, nor something that is no record."""
    assert AdamW(weight_decay=0.0) != Adam()
    assert Inner(1.0) != (1.0, "inner")
    assert Inner(1.0) != evolve(Inner(1.0), rate=1)  # an int is structure, a float a leaf


def test_tensors_make_a_record_unhashable():
    """A record with a tensor anywhere in it is unhashable, and the error says why."""
    for value in (
        AdamW(lr=torch.tensor(0.1)),
        AdamW(betas=(0.9, torch.tensor(0.9))),
        outer(),
        chain(SGD(torch.ones(()))),
    ):
        with pytest.raises(TypeError, match="tensors is unhashable: tensors compare by value"):
            hash(value)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_are_equal(copied):
    """Copying, deep copying and pickling give an equal record; the last two share no tensor with it."""
    for value in (adam_w, outer(), ema(chain(ClipNorm(torch.tensor(1.0)), SGD(0.1)), 0.9)):
        assert copied(value) == value
    assert (copied(outer_ := outer()).table["a"] is outer_.table["a"]) == (copied is copy.copy)


def test_records_are_frozen():
    """A field cannot be assigned; evolve makes the variant."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        adam_w.lr = 0.2
    assert evolve(adam_w, lr=0.2).lr == 0.2
    assert adam_w.lr == 0.1


@given(optimizers)
def test_repr_evaluates_back(optimizer):
    """The repr of a record of numbers is the code that makes it."""
    for value in (optimizer, SGD(0.1, momentum=0.9, nesterov=True), ClipValue(2.0)):
        assert eval(repr(value)) == value


def test_vmap_and_grad_take_a_record():
    """The numbers of a record are inputs of vmap (those that in_dims names vary) and of grad."""
    p, g, lrs = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]), torch.tensor([0.1, 0.2])

    def moved(sgd):
        return sgd.update({"w": g}, sgd.init_state({"w": p}), {"w": p})[0]["w"]

    leaves, structure = pytree.tree_flatten(SGD(lr=lrs))
    dims = [0 if isinstance(leaf, torch.Tensor) else None for leaf in leaves]
    each = torch.vmap(lambda leaves: moved(pytree.tree_unflatten(leaves, structure)), (dims,))(leaves)
    assert torch.equal(each, torch.stack([p - lr * g for lr in lrs]))
    rate = pytree.tree_map(torch.tensor, SGD(lr=0.1))
    slopes = torch.func.grad(lambda sgd: moved(sgd).sum())(rate)
    assert isinstance(slopes, SGD)
    assert torch.equal(slopes.lr, -g.sum())
    assert torch.allclose(slopes.weight_decay, -0.1 * p.sum())
