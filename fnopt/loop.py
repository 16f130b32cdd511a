"""The driver: `run` hands batches to a step, and `evaluate` measures a state. Nothing hides in either."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import nn

from .batch import Form, blame_structure, form_of
from .errors import DataExhaustedError, EmptyDataError, HyperparameterError, StructureError, UsageError
from .functional import Forward, forward_of
from .randomness import mix, seeded
from .state import TrainState, to_device
from .step import StepFn
from .tensors import device_of, precise
from .types import Metrics
from .watch import OnNonFinite, Watch

B_co = TypeVar("B_co", covariant=True)
B = TypeVar("B")
_END = object()


class Resumable(Protocol[B_co]):
    """A source of batches that can begin anywhere: `Batches`, `Stream`, or your own."""

    def iter_from(self, position: int, /) -> Iterator[B_co]: ...


def run(
    step: StepFn[B],
    state: TrainState,
    data: Resumable[B],
    updates: int,
    *,
    patience: int = 10,
    on_nonfinite: OnNonFinite = "raise",
) -> Iterator[tuple[TrainState, Metrics]]:
    """Train until `updates` updates are applied in all, and hand over (state, metrics) after every step.

    Begins where `state` is: a resumed run gets the same batches, so it equals the uninterrupted one to the bit. Batches
    are moved to the device of params. A skipped step is handed over too, and another takes its place. To change the
    state in between, leave the loop and call `run` with the new one. An ensemble runs until its furthest member is
    there.

    After `patience` skipped steps in a row (of all members) it computes the gradient again and raises NonFiniteError,
    which names the tensors; for a loss scale on its way down it waits. To count costs one wait for the device in as
    many steps. `on_nonfinite="rollback"` goes back to a copy of a state that was good, one in 100, and on with the data
    that comes next, under a RollbackWarning; at most 3 times to the same one.

    >>> from fnopt import SGD, Batches, make_step, value_and_grad
    >>> step = make_step(value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x))), SGD(lr=0.1))
    >>> data = Batches([1.0, 2.0, 3.0, 4.0], batch_size=2, seed=0)
    >>> for state, metrics in run(step, step.init_state({"w": torch.ones(())}), data, updates=3):
    ...     pass
    >>> int(state.updates), state.position
    (3, 3)

    Raises DataExhaustedError when data has run out, EmptyDataError where nothing has weight, BatchError for a batch
    that is not like the first.
    """
    _check_run(state, data, updates)
    watch = Watch.begin(step, state, patience, on_nonfinite)
    device = device_of(state.params)
    batches = data.iter_from(state.position)
    first: Form | None = None
    while (missing := updates - _applied(state)) > 0:
        for _ in range(missing):
            batch = next(batches, _END)
            if batch is _END:
                raise DataExhaustedError(
                    f"run: data ended at position {state.position} with {_applied(state)} updates applied, expected "
                    f"enough for {updates}; run fewer, or give data that starts again, such as fnopt.Batches"
                )
            batch = to_device(cast(B, batch), device)
            first = form_of(batch) if first is None else first
            watch.before(state)
            try:
                state, metrics = step.step(state, batch)
            except Exception as error:
                blame_structure(error, batch, first)
                raise
            yield state, metrics
            state = watch.after(state, batch, metrics)


def _check_run(state: TrainState, data: Any, updates: int) -> None:
    if isinstance(updates, bool) or not isinstance(cast(object, updates), int) or updates < 0:
        raise HyperparameterError(f"run: updates must be an int >= 0, got {updates!r}")
    if not hasattr(data, "iter_from"):
        raise UsageError(
            f"run: data is a {type(data).__name__}, expected a source that can begin anywhere; wrap a dataset as "
            "fnopt.Batches(dataset, batch_size=…), an iterable as fnopt.Stream(iterable)"
        )
    if not state.params:
        frozen = [name for name, leaf in state.buffers.items() if leaf.dtype.is_floating_point]
        raise StructureError(
            f"run: the state has no params, expected at least one to train; {frozen[:5]} are buffers, as all "
            "parameters are that do not require grad; call requires_grad_(True) before step.init_state(model)"
        )


def _applied(state: TrainState) -> int:
    """Updates applied; of an ensemble, those of the member that is furthest."""
    return int(state.updates.max())


def evaluate(
    model: nn.Module, loss: Callable[[Any, B], Any], state: TrainState, batches: Iterable[B | list[B]]
) -> dict[str, float]:
    """The mean loss over all batches, by weight: `loss`, `weight`, and the loss's aux, each divided by the weight.

    Evaluates `state.params`; for the average that an `ema` keeps: `evolve(state, params=step.eval_params(state))`. The
    module is in eval mode meanwhile and comes back as it was, as does torch's global generator. A list among the
    batches is micro-batches. For mixed precision call it under torch.autocast.

    >>> from fnopt import Batches
    >>> model = nn.Linear(1, 1)
    >>> state = TrainState.of({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
    >>> data = Batches(torch.arange(5.0).reshape(5, 1), batch_size=2, shuffle=False)
    >>> evaluate(model, lambda model, x: (model(x).sum(), len(x)), state, data)
    {'loss': 2.0, 'weight': 5.0}

    Raises EmptyDataError if there is nothing with weight to evaluate.
    """
    forward, device, modes = forward_of(model, loss), device_of(state.params), _modes(model)
    sums: dict[str, torch.Tensor] = {}
    model.eval()
    try:
        with torch.no_grad(), seeded(mix(state.seed, state.position), device):
            for batch in batches:
                parts = cast(list[Any], batch) if isinstance(batch, list) else [batch]
                for part in parts:
                    _add(sums, forward, state, to_device(part, device))
    finally:
        for module, mode in modes:
            module.training = mode
    totals = {name: value.item() for name, value in sums.items()}
    if not totals.get("weight"):
        raise EmptyDataError("evaluate: no batch had any weight, expected at least one sample; is the loader empty?")
    return {name: value if name == "weight" else value / totals["weight"] for name, value in totals.items()}


def _add(sums: dict[str, torch.Tensor], forward: Forward, state: TrainState, batch: Any) -> None:
    total, weight, aux, _ = forward(state.params, state.buffers, batch)
    for name, value in {"loss": total, "weight": weight, **aux}.items():
        wide = torch.where(weight > 0, value, 0.0).to(precise(value.device))  # without weight nothing counts, nor a nan
        sums[name] = sums[name] + wide if name in sums else wide


def _modes(model: nn.Module) -> list[tuple[nn.Module, bool]]:
    return [(module, module.training) for module in model.modules()]
