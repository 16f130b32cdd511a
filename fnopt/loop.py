"""The driver: `run` hands batches to a step, and `evaluate` measures a state. Nothing hides in either."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import nn

from .errors import DataExhaustedError, EmptyDataError, HyperparameterError, NonFiniteError, UsageError
from .functional import Forward, forward_of
from .randomness import mix, seeded
from .state import TrainState, to_device
from .step import StepFn
from .tensors import device_of, precise
from .types import Metrics

B_co = TypeVar("B_co", covariant=True)
B = TypeVar("B")
_END = object()
PATIENCE = 100  # skipped steps in a row that `run` sees, where it counts them, before it gives up


class Resumable(Protocol[B_co]):
    """A source of batches that can begin anywhere: `Batches`, `Stream`, or your own."""

    def iter_from(self, position: int, /) -> Iterator[B_co]: ...


def run(step: StepFn[B], state: TrainState, data: Resumable[B], updates: int) -> Iterator[tuple[TrainState, Metrics]]:
    """Train until `updates` updates are applied in all, and hand over (state, metrics) after every step.

    Begins where `state` is: a resumed run gets the same batches, so it equals the uninterrupted one to the bit. Batches
    are moved to the device of params. A skipped step is handed over too, and another takes its place. Nobody waits for
    the device but where the planned steps are done and the skipped ones among them are counted. To change the state in
    between, leave the loop and call `run` with the new one. An ensemble runs until its furthest member is there.

    >>> from fnopt import SGD, Batches, make_step, value_and_grad
    >>> step = make_step(value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x))), SGD(lr=0.1))
    >>> data = Batches([1.0, 2.0, 3.0, 4.0], batch_size=2, seed=0)
    >>> for state, metrics in run(step, step.init_state({"w": torch.ones(())}), data, updates=3):
    ...     pass
    >>> int(state.updates), state.position
    (3, 3)

    Raises HyperparameterError for a number of updates that is no int >= 0, DataExhaustedError when data has run out,
    NonFiniteError where it counts skipped steps and finds 100 in a row: they would go on for ever.
    """
    if isinstance(updates, bool) or not isinstance(cast(object, updates), int) or updates < 0:
        raise HyperparameterError(f"run: updates must be an int >= 0, got {updates!r}")
    if not hasattr(data, "iter_from"):
        raise UsageError(
            f"run: data is a {type(data).__name__}, expected a source that can begin anywhere; wrap a dataset as "
            "fnopt.Batches(dataset, batch_size=…), an iterable as fnopt.Stream(iterable)"
        )
    device = device_of(state.params)
    batches = data.iter_from(state.position)
    while (missing := updates - _applied(state)) > 0:
        check_progress(state)
        for _ in range(missing):
            batch = next(batches, _END)
            if batch is _END:
                raise DataExhaustedError(
                    f"run: data ended at position {state.position} with {_applied(state)} updates applied, expected "
                    f"enough for {updates}; run fewer, or give data that starts again, such as fnopt.Batches"
                )
            state, metrics = step.step(state, to_device(cast(B, batch), device))
            yield state, metrics


def _applied(state: TrainState) -> int:
    """Updates applied; of an ensemble, those of the member that is furthest."""
    return int(state.updates.max())


def check_progress(state: TrainState) -> None:
    """Refuse to go on where nothing but skipped steps would follow."""
    skipped = state.loss_scale.get("skipped_in_a_row")
    in_a_row = 0 if skipped is None else int(skipped.min())  # of an ensemble: while one member goes on, all do
    if in_a_row >= PATIENCE:
        raise NonFiniteError(
            f"run: the last {in_a_row} steps were all skipped, at position {state.position}, expected an update among "
            f"{PATIENCE}: a loss or gradient is not finite, or no batch has weight; look at the data, or lower lr"
        )


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
