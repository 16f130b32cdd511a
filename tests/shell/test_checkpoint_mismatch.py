"""A checkpoint and a state that do not fit: refused as a whole, by name, with all differences and the fix."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from checkpoint_cases import fingerprint, small_state

import fnopt
from fnopt.checkpoint import load_checkpoint, save_checkpoint
from fnopt.checkpoint.names import flatten
from fnopt.errors import NonFiniteError, StateMismatchError, StructureError, UsageError
from fnopt.record import evolve
from fnopt.state import TrainState


def test_every_mismatch_is_in_one_error(tmp_path):
    """Missing and unexpected names, shapes, dtypes and empty dicts are all listed, with both sides."""
    state = TrainState.of({"a": torch.zeros(2), "b": torch.zeros(3, 4), "c": torch.zeros(1)}, opt_state={"m": {}})
    like = TrainState.of(
        {"a": torch.zeros(2, dtype=torch.float64), "b": torch.zeros(7, 7), "d": torch.zeros(1)},
        opt_state={"m": {"a": torch.zeros(2)}},
    )
    path = save_checkpoint(tmp_path / "a", state)
    with pytest.raises(StateMismatchError) as caught:
        load_checkpoint(path, like=like)
    text = str(caught.value)
    for part in (
        "2 missing: params/d, opt_state/m/a",
        "2 unexpected: params/c, opt_state/m/",
        "1 shape: params/b [3, 4] not [7, 7]",
        "1 dtype: params/a float32 not float64",
        "another model",
    ):
        assert part in text
    error = caught.value
    assert (error.path, error.item, error.expected, error.found) == (str(path), "params/d", "in the file", "missing")


def test_a_mismatch_lists_five_of_a_kind_and_counts_the_rest(tmp_path):
    """A thousand differences make a message of readable length that says how many there are."""
    path = save_checkpoint(tmp_path / "a", TrainState.of({f"w{i}": torch.zeros(1) for i in range(1000)}))
    with pytest.raises(StateMismatchError, match=r"1000 unexpected: params/w0, .*params/w4 and 995 more") as caught:
        load_checkpoint(path, like=TrainState.of({}))
    assert len(str(caught.value)) < 400 + len(str(path))


def test_the_state_of_another_optimizer_is_named(tmp_path):
    """SGD's memory is not loaded into AdamW; the error lists what each remembers."""
    params = {"w": torch.zeros(2)}
    sgd = TrainState.of(params, opt_state=fnopt.SGD(0.1, momentum=0.9).init_state(params))
    adamw = TrainState.of(params, opt_state=fnopt.AdamW().init_state(params))
    path = save_checkpoint(tmp_path / "a", sgd)
    with pytest.raises(StateMismatchError, match=r"another optimizer, which remembers .*not .*exp_avg_sq"):
        load_checkpoint(path, like=adamw)


@pytest.mark.parametrize("where", ["updates", "opt_state/step", "opt_state/chain/step"])
def test_a_negative_clock_is_refused(where, tmp_path):
    """No optimizer's step and no count of updates is below 0."""
    state = evolve(small_state(), opt_state={"step": torch.tensor(0), "chain": {"step": torch.tensor([1, 2])}})
    clock = dict(flatten("", state))[where]
    clock.sub_(4)
    path = save_checkpoint(tmp_path / "a", state)
    with pytest.raises(StateMismatchError, match=f"1 clock: {where} -.* not >= 0"):
        load_checkpoint(path, like=state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2, torch.complex64])
@pytest.mark.parametrize("tree", ["params", "opt_state"])
def test_a_diverged_run_is_loaded_only_on_wish(bad, dtype, tree, tmp_path):
    """One nan or infinity in params or opt_state is a NonFiniteError with its name, unless allow_nonfinite."""
    leaf = torch.tensor([0.0, bad, 1.0]).to(dtype)
    state = evolve(small_state(), **{tree: {"w": leaf, "good": torch.ones(2)}})
    path = save_checkpoint(tmp_path / "a", state)
    with pytest.raises(NonFiniteError, match=f"1 tensors.*: {tree}/w; "):
        load_checkpoint(path, like=state)
    assert fingerprint(load_checkpoint(path, like=state, allow_nonfinite=True)) == fingerprint(state)


def test_finite_extremes_and_infinite_buffers_are_no_alarm(tmp_path):
    """The largest finite numbers load, and so does an attention mask of -inf."""
    dtypes = (torch.float64, torch.float16)
    big = {str(d): torch.tensor([torch.finfo(d).max, torch.finfo(d).min], dtype=d) for d in dtypes}
    state = evolve(small_state(), params=big, buffers={"mask": torch.full((2, 2), float("-inf"))})
    path = save_checkpoint(tmp_path / "a", state)
    assert fingerprint(load_checkpoint(path, like=state)) == fingerprint(state)


LOOP: dict[str, object] = {}
LOOP["x"] = LOOP


@pytest.mark.parametrize(
    ("opt_state", "error", "text"),
    [
        (None, UsageError, "opt_state is of type NoneType"),
        ({"m": [torch.zeros(1)]}, UsageError, "opt_state/m is of type list"),
        ({"m": {"lr": 0.1}}, UsageError, r"opt_state/m/lr is of type float.*torch.tensor"),
        (OrderedDict(a=torch.zeros(1)), UsageError, "opt_state is of type OrderedDict.*plain dict"),
        ({"m": {0: torch.zeros(1)}}, UsageError, "opt_state/m has the key 0.*use '0'"),
        ({"a/b": torch.zeros(1, device="meta")}, StructureError, "opt_state/a%2Fb is on the meta device"),
        ({"s": torch.eye(2).to_sparse()}, StructureError, "opt_state/s has layout torch.sparse_coo.*to_dense"),
        (
            {"q": torch.zeros(1, dtype=torch.float8_e8m0fnu)},
            StructureError,
            "opt_state/q has dtype torch.float8_e8m0fnu",
        ),
        (LOOP, StructureError, "nested deeper than 64"),
    ],
)
def test_what_is_no_state_is_refused_by_name(opt_state, error, text, tmp_path):
    """A state that a file cannot hold is an error with the name of the leaf, on save and on load, and makes no file."""
    bad = evolve(small_state(), opt_state=opt_state)
    with pytest.raises(error, match=text):
        save_checkpoint(tmp_path / "a", bad)
    assert not list(tmp_path.iterdir())
    with pytest.raises(error, match=text):
        load_checkpoint(save_checkpoint(tmp_path / "b", small_state()), like=bad)


def test_arguments_that_are_no_state_say_so(tmp_path):
    """A dict of tensors and a position that is no int are UsageErrors with the fix."""
    with pytest.raises(UsageError, match=r"expected a TrainState, got dict; TrainState.of"):
        save_checkpoint(tmp_path / "a", {"w": torch.zeros(1)})
    with pytest.raises(UsageError, match=r"position is 1\.5, expected an int"):
        save_checkpoint(tmp_path / "a", evolve(small_state(), position=1.5))
    with pytest.raises(UsageError, match="updates is nan"):
        save_checkpoint(tmp_path / "a", evolve(small_state(), updates=torch.tensor(float("nan"))))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("info", "text"),
    [
        ({"best": float("nan")}, r"info\['best'\] is nan, which JSON cannot hold; use None or a string"),
        ({"a": [1, {"b": torch.zeros(1)}]}, r"info\['a'\]\[1\]\['b'\] is a Tensor.*\.tolist\(\)"),
        ({"path": Path("x")}, r"info\['path'\] is a PosixPath.*str\(\)"),
        ({1: "a"}, r"info has the key 1"),
        ({"n": 2**64}, r"info\['n'\] is 18446744073709551616"),
        ({"loop": LOOP}, r"is a dict, which JSON cannot hold"),
    ],
)
def test_info_that_is_no_json_is_refused_by_name(info, text, tmp_path):
    """What JSON cannot hold is a UsageError that says where it is, and makes no file."""
    with pytest.raises(UsageError, match=text):
        save_checkpoint(tmp_path / "a", small_state(), info)
    assert not list(tmp_path.iterdir())
