"""Laws of files: what is saved comes back, and a run that was stopped ends as one that was not."""

import tempfile
from pathlib import Path
from typing import Any

from ..checkpoint import load_checkpoint, save_checkpoint
from ..errors import FnoptError
from ..record import evolve
from ..state import TrainState
from . import torch_optim
from .bits import apply, require_same, run
from .case import Calls, Case
from .fields import own_fields
from .grad_fn import keeps_its_input, warm_up
from .kinds import kind_of
from .law import BrokenLawError, law


@law("optimizer", "transform")
def law_saved_state_comes_back(thing: Any, case: Case) -> None:
    """A checkpoint of params and state, loaded into the structure of a fresh state, holds the same bits by name."""
    params, grads = case.fresh()
    *_, (_, state) = run(thing, params, grads)
    saved = TrainState.of(params, opt_state=state)
    loaded = _through_a_file(saved, TrainState.of(params, opt_state=thing.init_state(params)))
    require_same(own_fields(loaded), own_fields(saved), "loaded", "it was saved so")


@law("optimizer", "transform", "torch optimizer")
def law_resumed_is_continued(thing: Any, case: Case) -> None:
    """Saved after its first update, loaded and continued, a run has the bits of one that went on.

    A pure thing goes through a checkpoint. A stateful one goes through a copy of `state_dict` and `load_state_dict` of
    a new one over copies of the parameters.
    """
    params, (first, *rest) = case.fresh()
    rest = [*rest, first]
    if kind_of(thing) == "torch optimizer":
        live = torch_optim.Live(thing, params)
        live.step(first)
        resumed = live.resumed()
        for update, gradient in enumerate(rest):
            expected, got = live.step(gradient), resumed.step(gradient)
            require_same(got, expected, f"weights {update} updates after the file", "so they are without it")
        return
    result, state = apply(thing, first, thing.init_state(params), params)
    params = result if kind_of(thing) == "optimizer" else params
    begun = TrainState.of(params, opt_state=state)
    loaded = _through_a_file(begun, TrainState.of(params, opt_state=thing.init_state(params)))
    mine, theirs = (loaded.params, loaded.opt_state), (params, state)
    for update, gradient in enumerate(rest):
        got, expected = apply(thing, gradient, mine[1], mine[0]), apply(thing, gradient, theirs[1], theirs[0])
        require_same(got, expected, f"result {update} after the file", "so it is without it")
        if kind_of(thing) == "optimizer":
            mine, theirs = got, expected
        else:
            mine, theirs = (mine[0], got[1]), (theirs[0], expected[1])


@law("step", where=[keeps_its_input])
def law_resumed_step_is_continued(thing: Any, case: Calls) -> None:
    """Saved after its first call, loaded into a fresh state and continued, a run has the bits of one that went on."""
    state, (first, *rest) = case.begin(thing)
    fresh = state
    warm_up(thing, state, first)
    state, _ = thing.step(state, first)
    loaded = _through_a_file(state, evolve(fresh, params=dict(fresh.params)))
    require_same(own_fields(loaded), own_fields(state), "loaded", "it was saved so")
    for call, batch in enumerate([*rest, first]):
        state, metrics = thing.step(state, batch)
        loaded, again = thing.step(loaded, batch)
        require_same(own_fields(loaded), own_fields(state), f"state {call} after the file", "so it is without it")
        require_same(again, metrics, f"metrics {call} after the file", "so they are without it")


def _through_a_file(state: TrainState, like: TrainState) -> TrainState:
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = save_checkpoint(Path(folder, "law.safetensors"), state)
            return load_checkpoint(path, like=like, allow_nonfinite=True)
        except FnoptError as error:  # the folder has another name every time
            raise BrokenLawError(str(error).replace(f"{folder}/", "")) from error
