"""Laws of everything that steps: it is a function, and nothing but its inputs decides what it gives."""

from typing import Any

import torch

from ..randomness import seeded
from . import torch_optim
from .bits import apply, require, require_apart, require_same, run, unchanged
from .case import Case
from .kinds import kind_of
from .law import law


@law("optimizer", "transform")
def law_pure(thing: Any, case: Case) -> None:
    """A call changes none of its inputs, and its results share memory with none.

    To the bit, and in `_version`; inputs are also the thing's own tensors, what the dicts hold, and torch's global
    generator. A leaf that is passed on may be the very tensor that came in at its place (a frozen parameter, say), for
    nobody can tell that from a copy; the same tensor in two places would be lost when memory is donated.
    """
    params, gradients = case.fresh()
    with unchanged(thing=thing, params=params):
        state = thing.init_state(params)
    require_apart({"thing": thing, "params": params}, {"state": state})
    for grads in gradients:
        with unchanged(thing=thing, grads=grads, state=state, params=params):
            result, new = apply(thing, grads, state, params)
        optimizes = kind_of(thing) == "optimizer"
        outputs = {"params" if optimizes else "grads": result, "state": new}
        require_apart({"thing": thing, "grads": grads, "state": state, "params": params}, outputs)
        params, state = (result if optimizes else params), new


@law("optimizer", "transform", "torch optimizer")
def law_deterministic(thing: Any, case: Case) -> None:
    """The same calls give the same bits, whatever was called before and wherever the global generator stands."""
    results: list[Any] = []
    for seed in (1, 2):
        with seeded(seed, torch.device("cpu")):
            results.append(list(run(thing, *case.fresh())))
    require_same(results[1], results[0], "second run", "the first run gave this")


@law("torch optimizer")
def law_gradients_stay_as_they_were(thing: Any, case: Case) -> None:
    """A step of a stateful optimizer changes the parameters, and leaves their gradients as they were."""
    params, gradients = case.fresh()
    live = torch_optim.Live(thing, params)
    for grads in gradients:
        live.step(grads)
        for name, param in live.params.items():
            held = param.grad
            require(held is not None, f"the gradient of {name!r} is gone")
            require_same(held, grads[name].to(param.dtype), f"the gradient of {name!r}", "it was that before the step")
