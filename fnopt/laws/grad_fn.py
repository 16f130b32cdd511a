"""Laws of gradient functions: sums that add up over examples, seen through no scale."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from .._torch import tree_leaves
from ..accumulate import add
from ..compile import Compiled
from ..grads import Graded
from ..randomness import seeded
from ..record import evolve
from ..sam import Sam
from ..tensors import tensor_map, wide
from .bits import require, require_close, require_same, unchanged
from .case import Calls
from .fields import fields_of, own_fields
from .kinds import kind_of
from .law import law
from .strategies import Drawn, sample_calls

RELATIVE = 1e-9  # of float64: sums of examples in another order are a thousand times closer


def keeps_its_input(thing: Any, _: Drawn) -> str:
    """Only what may be called twice with one state."""
    return "donates its state: check compiled(step, donate=False)" if getattr(thing, "donate", False) else ""


@law("GradFn", "step", where=[keeps_its_input])
def law_call_is_a_function(thing: Any, case: Calls) -> None:
    """A call changes neither state nor batch nor the global generator, and called again it gives the same bits.

    Wherever the global generator stands: what is drawn is a function of the state.
    """
    call = thing.step if kind_of(thing) == "step" else thing
    state, batches = case.begin(thing)
    for batch in batches:
        warm_up(thing, state, batch)
        with unchanged(thing=thing, state=own_fields(state), batch={"batch": batch}):
            result = call(state, batch)
        with seeded(1, torch.device("cpu")):
            again = call(state, batch)
        require_same(_plain(again), _plain(result), "the second call", "the first call gave this")


@law("GradFn")
def law_gradients_are_shaped_as_params(thing: Any, case: Calls) -> None:
    """Gradients have the names and shapes of params, in float32 or wider; loss and weight are numbers, weight >= 0.

    Nothing of it requires grad.
    """
    state, batches = case.begin(thing)
    for batch in batches:
        graded = thing(state, batch)
        require(
            list(graded.grads) == list(state.params), f"grads are of {list(graded.grads)}, not {list(state.params)}"
        )
        for name, leaf in state.params.items():
            got, expected = _form(graded.grads[name]), (list(leaf.shape), wide(leaf.dtype), False)
            require(got == expected, f"the gradient of {name!r} is (shape, dtype, requires grad) {got}, not {expected}")
        numbers = (graded.loss.shape, graded.weight.shape, bool(graded.weight >= 0))
        require(numbers == ((), (), True), "loss and weight are {} and {}, not numbers", graded.loss, graded.weight)


def adds_up(thing: Any, drawn: Drawn) -> str:
    """Only GradFns that take float64 and no random numbers, leave buffers alone, and batches of two rows and more."""
    if any(isinstance(part, Sam) for part in (thing, *(part for _, part in fields_of(thing)))):
        return "takes each gradient at another point"
    if min((_rows(batch) for batch in _listed(drawn.get("batch"))), default=0) < 2:
        return "its batch has no two examples: the tensors of a batch must share their first dimension"
    case = sample_calls(**drawn)
    state, (batch,) = case.begin(thing)
    graded, other = thing(state, batch), thing(evolve(state, seed=state.seed + 1), batch)
    if _plain(graded)["buffers"] and not _equal(graded.buffers, state.buffers):
        return "its module changes buffers"
    if not _equal(graded.grads, other.grads):
        return "draws random numbers"
    try:
        state, (batch,) = case.doubled().begin(thing)
        thing(state, batch)
    except (RuntimeError, TypeError, ValueError) as error:
        return f"does not take float64: {str(error).splitlines()[0]}"
    return ""


@law("GradFn", where=[adds_up])
def law_gradients_of_examples_add_up(thing: Any, case: Calls) -> None:
    """A batch cut in two has the gradient, the loss and the weight of the whole: sums, wherever it is cut.

    What takes a list of micro-batches gets the parts in one list. In float64, within 1e-9 of the largest entry.
    """
    state, batches = case.doubled().begin(thing)
    for batch in batches:
        whole = thing(state, batch)
        pieces = [_halves(one, case.seed) for one in _listed(batch)]
        if isinstance(batch, list):
            alone = [thing(state, [half]) for halves in pieces for half in halves]
            parts = thing(state, [half for halves in pieces for half in halves])
        else:
            alone = [thing(state, half) for half in pieces[0]]
            parts = add(*alone)
        _require_close_gradeds(parts, whole, alone)


def takes_no_examples(thing: Any, drawn: Drawn) -> str:
    """Only things that take a batch of no examples."""
    if min((_rows(batch) for batch in _listed(drawn.get("batch"))), default=0) < 1:
        return "its batch has no examples to leave out: the tensors of a batch must share their first dimension"
    state, (batch,) = sample_calls(**drawn).begin(thing)
    try:
        (thing.step if kind_of(thing) == "step" else thing)(state, emptied(batch))
    except Exception as error:  # whatever its model raises for an empty batch
        return f"takes no batch of no examples: {type(error).__name__}"
    return ""


@law("GradFn", where=[takes_no_examples])
def law_no_examples_count_nothing(thing: Any, case: Calls) -> None:
    """A batch of no examples has weight, loss and gradients of 0, keeps the buffers, and in a list changes no bit."""
    state, batches = case.begin(thing)
    for batch in batches:
        nothing = thing(state, emptied(batch))
        zeros = all(not leaf.any() for leaf in (nothing.loss, nothing.weight, *nothing.grads.values()))
        require(zeros, f"no examples give {nothing}")
        require_same(nothing.buffers, state.buffers, "buffers after no examples", "they were this before")
        if isinstance(batch, list):
            more = thing(state, [*cast(list[Any], batch), *emptied(batch)])
            require_same(
                _plain(more), _plain(thing(state, batch)), "with an empty micro-batch", "without it it is this"
            )


@law("GradFn")
def law_loss_scale_is_invisible(thing: Any, case: Calls) -> None:
    """Under a loss scale of any power of two the gradients are the same, and so are loss and weight.

    Wherever both are finite, within 8 ulp of the largest entry: the scale may lift numbers that were subnormal.
    """
    state, batches = case.begin(thing)
    one, scale = (torch.tensor(value) for value in (1.0, 2.0 ** (3 + case.seed)))
    for batch in batches:
        plain = thing(evolve(state, loss_scale={**state.loss_scale, "scale": one}), batch)
        scaled = thing(evolve(state, loss_scale={**state.loss_scale, "scale": scale}), batch)
        require_same(
            (scaled.loss, scaled.weight), (plain.loss, plain.weight), "loss and weight", "unscaled they are this"
        )
        for name, leaf in plain.grads.items():
            both = leaf.isfinite() & scaled.grads[name].isfinite()
            got, expected = scaled.grads[name][both], leaf[both]
            bound = 8 * torch.finfo(leaf.dtype).eps * _largest([expected])
            require_close(got, expected, bound, f"the gradient of {name!r}", f"so it is without the scale {scale}")


def warm_up(thing: Any, state: Any, batch: Any) -> None:
    """A compiled step runs shapes that it sees for the first time in eager, and from the second time on as kernels."""
    if isinstance(thing, Compiled):
        cast("Compiled[Any]", thing).step(state, batch)


def emptied(batch: Any) -> Any:
    """The same batch without its examples."""
    return tensor_map(lambda leaf: leaf[:0], batch)


def _listed(batch: Any) -> list[Any]:
    return cast(list[Any], batch) if isinstance(batch, list) else [batch]


def _rows(batch: Any) -> int:
    """The first dimension that all tensors of a Batch share, or 0."""
    sizes = {len(leaf) if leaf.ndim else 0 for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)}
    return sizes.pop() if len(sizes) == 1 else 0


def _halves(batch: Any, seed: int) -> list[Any]:
    cut = 1 + seed % (_rows(batch) - 1)
    return [tensor_map(lambda leaf: leaf[:cut], batch), tensor_map(lambda leaf: leaf[cut:], batch)]


def _require_close_gradeds(got: Graded, expected: Graded, parts: Sequence[Graded]) -> None:
    why = "so it is of the whole batch"
    loss = RELATIVE * _largest([part.loss for part in (expected, *parts)])
    require_close(got.loss, expected.loss, loss, "the loss of the parts", why)
    require_close(got.weight.double(), expected.weight.double(), 0.0, "the weight of the parts", why)
    for name, leaf in expected.grads.items():
        bound = RELATIVE * _largest([leaf, *(part.grads[name] for part in parts)])
        require_close(got.grads[name], leaf, bound, f"the gradient of {name!r} of the parts", why)


def _largest(leaves: Sequence[Tensor]) -> float:
    return max((float(leaf.abs().max()) for leaf in leaves if leaf.numel()), default=0.0)


def _form(leaf: Tensor) -> tuple[list[int], torch.dtype, bool]:
    return list(leaf.shape), leaf.dtype, leaf.requires_grad


def _plain(result: Any) -> Any:
    """Records as dicts, to be compared leaf by leaf."""
    if isinstance(result, tuple):
        return tuple(_plain(part) for part in cast(tuple[Any, ...], result))
    return own_fields(result)


def _equal(a: Any, b: Any) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], leaf) for name, leaf in b.items())
