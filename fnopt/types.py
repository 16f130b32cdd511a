"""The words of fnopt that are only types. Everything else in the package is made of these.

    Tensors         one flat dict of tensors, keys as in `named_parameters()`: params, grads, buffers
    Optimizer[S]    init_state(params) -> S        update(grads, state, params) -> (params, S)
    GradTransform[S]   init_state(params) -> S     transform(grads, state, params) -> (grads, S)
    Schedule        schedule(step) -> value
    Hyper           what a numeric hyperparameter may be: a float, a tensor, or a Schedule
    Metrics         what a step reports: 0-d tensors by name, until somebody reads them

An Optimizer takes params and returns params (not "updates to apply"): the order of torch's operations is kept, so that
eager float32 equals torch.optim to the bit, and there is one concept less to learn.

A state is a plain nested dict of tensors with string keys. It is complete from `init_state`; its structure, shapes and
dtypes never change and do not depend on a flag (memory that is not used is an empty dict).

`scope` says what a rule or transform looks at: `"element"`, each entry alone (Adam); `"global"`, also sums over all
leaves (ClipNorm); `"leaf"`, each parameter's own shape (Muon), which is what is assumed of one that does not say.
"""

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from torch import Tensor

Tensors: TypeAlias = Mapping[str, Tensor]
Metrics: TypeAlias = dict[str, Tensor]
Scope: TypeAlias = Literal["element", "global", "leaf"]

S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)


@runtime_checkable
class Schedule(Protocol):
    """A pure function of the number of updates done so far (int64, 0-d) to a value (float64, 0-d)."""

    def __call__(self, step: Tensor, /) -> Tensor: ...


Hyper: TypeAlias = float | Tensor | Schedule


@runtime_checkable
class Optimizer(Protocol[S]):
    """An update rule: params in, params out. Both methods are pure: they change none of their inputs."""

    def init_state(self, params: Tensors, /) -> S:
        """What the rule remembers, before the first update."""
        ...

    def update(self, grads: Tensors, state: S, params: Tensors, /) -> tuple[dict[str, Tensor], S]:
        """One update. `grads` has exactly the keys of `params`; returns new params and new state."""
        ...


@runtime_checkable
class GradTransform(Protocol[S]):
    """A pure change of gradients on their way to an Optimizer: clip, centralize, add noise."""

    def init_state(self, params: Tensors, /) -> S:
        """What the transform remembers, before the first update."""
        ...

    def transform(self, grads: Tensors, state: S, params: Tensors, /) -> tuple[dict[str, Tensor], S]:
        """The changed gradients and the new state."""
        ...


@runtime_checkable
class HasEvalParams(Protocol[S_contra]):
    """An Optimizer that evaluates other weights than it trains, as `ema` does."""

    def eval_params(self, state: S_contra, params: Tensors, /) -> dict[str, Tensor]:
        """The weights to evaluate, shaped as `params`."""
        ...
