"""`compiled`: a step as kernels that write the next state into the memory of the last one."""

from typing import Any, Generic, TypeVar, cast

import attrs
from torch import Tensor, nn

from ..errors import UsageError
from ..record import evolve, record
from ..state import TrainState
from ..step import StepFn
from ..types import Metrics, Tensors
from .cache import Stats
from .engine import Engine

B = TypeVar("B")


@record
class Compiled(Generic[B]):
    """What `compiled` makes: a StepFn. It has the fields of the step inside, and `evolve` changes those."""

    inner: StepFn[B]
    donate: bool = True
    engine: Engine = attrs.field(factory=Engine, repr=False)

    def __init__(self, inner: StepFn[B], donate: bool = True, engine: Engine | None = None, **changes: Any) -> None:
        made = evolve(cast(Any, inner), **changes) if changes else inner
        cast(Any, self).__attrs_init__(made, donate, Engine() if engine is None else engine)

    def __getattr__(self, name: str) -> Any:
        inner = self.__dict__.get("inner")
        if inner is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        return getattr(inner, name)

    def init_state(self, model: nn.Module | Tensors, seed: int = 0) -> TrainState:
        """That of the step inside."""
        return self.inner.init_state(model, seed=seed)

    def step(self, state: TrainState, batch: B) -> tuple[TrainState, Metrics]:
        """One update; `state` is donated unless `donate=False`."""
        return self.engine.step(self.inner, state, batch, self.donate)

    def eval_params(self, state: TrainState) -> dict[str, Tensor]:
        """The weights to evaluate; copy them if they must outlive the next step."""
        return self.inner.eval_params(state)

    @property
    def stats(self) -> Stats:
        """What has run how, so far."""
        return self.engine.stats

    @property
    def last_state(self) -> TrainState | None:
        """The newest state that is whole, also after Ctrl-C in the middle of a step; None before the first one."""
        return self.engine.last_state


def compiled(step: StepFn[B], donate: bool = True, at_once: bool = False) -> Compiled[B]:
    """The same step as a few kernels: traced, compiled by torch's Inductor, the optimizer run on flat buffers.

    The first shapes of a batch compile at once (seconds), others when seen a second time; once per shape, dtype,
    device, train / eval mode and structure of the step. With `at_once` others too, so that which steps run compiled,
    and the last bits, do not depend on where a process began: for runs that are resumed. Numbers of the step are
    inputs: `evolve(step, optimizer=…)` with another lr compiles nothing. Under `accumulate` the gradient of a
    micro-batch and the update are compiled apart. Results are those of eager to rounding, with the same random numbers.
    Python values that the loss reads are constants of the program (attributes of modules, say); a tensor that it closes
    over is read at every call.

    The new state is written into the memory of the old one, whose every further use is a DonatedStateError: go on with
    the one returned, keep others with `snapshot`. `donate=False` copies instead. `step.last_state` survives Ctrl-C.

    >>> from fnopt import SGD, make_step, value_and_grad
    >>> step = make_step(value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x))), SGD(lr=0.5))
    >>> step = compiled(step)
    >>> state, metrics = step.step(step.init_state({"w": torch.ones(())}), torch.tensor([1.0, 3.0]))
    >>> state.params, metrics["loss"], step.stats.mode
    ({'w': tensor(0.)}, tensor(2.), 'compiled')

    Without a C++ compiler, or if the step cannot be traced: eager, with one FallbackWarning that says why, which
    `step.stats` repeats. Raises UsageError for anything but a step.
    """
    if not (hasattr(step, "step") and hasattr(step, "init_state")):
        raise UsageError(f"compiled: got {step!r}, expected a step; make one with make_step(grad_fn, optimizer)")
    if isinstance(step, Compiled):
        raise UsageError("compiled: the step is compiled already; use it as it is")
    return Compiled(step, donate, Engine(at_once))
