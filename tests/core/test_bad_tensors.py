"""Params and grads that no rule can use are refused before anything is computed, each with its fix."""

import pytest
import torch
from torch import nn

from fnopt import SGD, Adam, AdamW
from fnopt.errors import FnoptError, StructureError, UsageError
from fnopt.tensors import check_grads, check_params

good = {"w": torch.ones(2), "b": torch.ones(())}
BAD_PARAMS = {
    "parameter": ({"w": nn.Parameter(torch.ones(1))}, UsageError, "'w' is an nn.Parameter, expected a plain tensor"),
    "module": (nn.Linear(1, 1), UsageError, "must be a dict of tensors, got Linear; fnopt.params_of(model) makes one"),
    "generator": (
        nn.Linear(1, 1).parameters(),
        UsageError,
        "must be a dict of tensors, got generator; fnopt.",
    ),
    "list": ([torch.ones(1)], UsageError, "must be a dict of tensors, got list; fnopt.params_of(model) makes one"),
    "integer": (
        {"n": torch.ones(1, dtype=torch.int64)},
        StructureError,
        "'n' has dtype torch.int64, expected a float",
    ),
    "bool": (
        {"n": torch.tensor(True)},
        StructureError,
        "'n' has dtype torch.bool, expected a floating-point",
    ),
    "sparse": (
        {"e": torch.ones(2, 2).to_sparse()},
        StructureError,
        "'e' has layout torch.sparse_coo, expected a",
    ),
}
BAD_GRADS = {
    "missing": (
        {"w": torch.ones(2)},
        "only in grads [], only in params ['b']; an unused parameter has a gra",
    ),
    "extra": ({**good, "x": torch.ones(1)}, "only in grads ['x'], only in params []"),
    "renamed": ({"v": torch.ones(2), "b": torch.ones(())}, "only in grads ['v'], only in params ['w']"),
    "shape": ({"w": torch.ones(2, 1), "b": torch.ones(())}, "the gradient of 'w' has shape [2, 1], expected [2]"),
    "0-d": ({"w": torch.ones(2), "b": torch.ones(1)}, "the gradient of 'b' has shape [1], expected []"),
    "sparse": (
        {**good, "w": torch.ones(2).to_sparse()},
        "'w' has layout torch.sparse_coo, expected a dense one; use",
    ),
}


@pytest.mark.parametrize("kind", BAD_PARAMS)
def test_bad_params_are_refused(kind):
    """Params that no pure rule can own are refused with owner, name, what was expected and the fix."""
    params, error, message = BAD_PARAMS[kind]
    for refuse in (lambda: check_params("Owner", params), lambda: Adam().init_state(params)):
        with pytest.raises(error) as caught:
            refuse()
        assert message in str(caught.value)
        assert str(caught.value).startswith(("Owner: ", "Adam: "))
        assert isinstance(caught.value, FnoptError)


@pytest.mark.parametrize("kind", BAD_GRADS)
def test_bad_grads_are_refused(kind):
    """Grads whose names, shapes or layouts are not those of params are refused, and both sides are listed."""
    grads, message = BAD_GRADS[kind]
    optimizer = SGD()
    for refuse in (
        lambda: check_grads("SGD", grads, good),
        lambda: optimizer.update(grads, optimizer.init_state(good), good),
    ):
        with pytest.raises(StructureError) as caught:
            refuse()
        assert str(caught.value).startswith("SGD: ")
        assert message in str(caught.value)


def test_long_lists_of_names_are_cut():
    """An error over many names lists five of each side and counts the rest."""
    with pytest.raises(StructureError, match=r"only in params \['0', '1', '2', '3', '4'\] and 3 more; an unused"):
        check_grads("SGD", {}, {str(place): torch.ones(1) for place in range(8)})


def test_a_state_belongs_to_one_setting():
    """A state made without a memory is refused where a flag needs one, and the other way round."""
    for owner, flag, without, with_it in (
        ("AdamW", "amsgrad", AdamW(), AdamW(amsgrad=True)),
        ("Adam", "amsgrad", Adam(), Adam(amsgrad=True)),
        ("SGD", "momentum", SGD(), SGD(momentum=0.9)),
    ):
        with pytest.raises(StructureError, match=f"{owner}: {flag} needs a memory that this state lacks; .*init_state"):
            with_it.update(good, without.init_state(good), good)
        with pytest.raises(StructureError, match=f"{owner}: {flag} is off, but this state has a memory for it; "):
            without.update(good, with_it.init_state(good), good)


def test_checks_let_good_tensors_pass():
    """Real, complex, half, empty and 0-d dense tensors are params, in any order of the gradients."""
    dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
    params = {f"{shape} {dtype}": torch.ones(shape, dtype=dtype) for shape in [(), (0,), (2, 3)] for dtype in dtypes}
    check_params("Owner", params)
    check_grads("Owner", dict(reversed(params.items())), params)
