"""The engine of a compiled step: which kernels there are, when there are new ones, and what runs without. Private."""

import warnings
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import attrs

from .._torch import inside_transform, tree_flatten, tree_unflatten
from ..ensemble import Ensemble
from ..errors import FallbackWarning
from ..grads import Graded
from ..randomness import mix, seeded
from ..record import evolve
from ..state import TrainState, donate, lender_of, lent
from ..step import Step
from ..types import Metrics
from .body import Body, added, micro_batches, oracle_of, signed, split
from .cache import Cache, Entry
from .held import Form, Held, hold
from .interrupt import Guard
from .kind import Kind, Kinds, Numbers, index
from .program import CannotCompileError, Leaves, Result, looks, make_program, write


@attrs.frozen
class Call:
    """Something to trace: what it is, for which shapes, and the function of numbers, leaves and other tensors."""

    what: str
    key: Hashable
    run: Callable[[Body, list[Any], Leaves, Leaves], Result]


@attrs.define
class Job:
    """One call: a step taken apart, a state, and whether its memory is given to the next one."""

    step: Any
    state: TrainState
    batch: Any
    give: bool
    kind: Kind
    numbers: Numbers
    inputs: Leaves  # the numbers as tensors
    held: Held
    key: Hashable
    eager: bool = False  # did some of it run without kernels?

    def body(self, seed: int) -> Body:
        """The functions to trace, or to run."""
        return Body(self.kind, self.held.form, self.state.position, seed)


class Engine:
    """The cache that all variants of one compiled step share."""

    def __init__(self, at_once: bool = False) -> None:
        self.last_state: TrainState | None = None
        self._cache = Cache(at_once)
        self.stats = self._cache.stats
        self._refused: set[int] = set()
        self._kinds = Kinds()
        self._forms: list[Form] = []
        self._fits: set[tuple[int, int]] = set()

    def __reduce__(self) -> Any:
        return Engine, (self._cache.at_once,)  # kernels belong to a process

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Engine)  # what was compiled already changes no result

    def __hash__(self) -> int:
        return hash(Engine)

    def step(self, step: Any, state: TrainState, batch: Any, give: bool) -> tuple[TrainState, Metrics]:
        """One step; with `give` the next state is written into the memory of `state`."""
        _ = state.position  # a donated state says so here
        if inside_transform():
            return step.step(state, batch)
        self.last_state = state
        number = self._kinds.number(step)
        if number in self._refused:
            return self._plainly(step, state, batch, give)
        try:
            job = self._job(number, step, state, batch, give)
            metrics = self._whole(job) if not _folds(step) else self._fold(job)
        except CannotCompileError as error:
            return self._plainly(step, state, batch, give, (number, str(error)))
        self.stats.mode = "eager" if job.eager else "compiled"
        self.stats.eager += job.eager
        return self.last_state, metrics

    def _whole(self, job: Job) -> Metrics:
        tensors, key = signed(job.batch)

        def run(body: Body, numbers: list[Any], leaves: Leaves, tensors: Leaves) -> Result:
            return body.whole(job.batch, numbers, leaves, tensors)

        return self._written(job, Call("whole", key, run), tensors)

    def _fold(self, job: Job) -> Metrics:
        leaves, count = list(job.held.leaves), job.held.form.buffers
        exchange, grad_fn = split(job.step.grad_fn)
        own = job.state.seed if exchange is None else exchange.seed(job.state.seed)
        total: Graded | None = None
        for seed, batch in micro_batches(grad_fn, own, job.batch):
            graded = self._gradient(job, seed, batch, leaves)
            total = graded if total is None else added(total, graded)
            leaves[:count] = graded.buffers.values()
            if len(leaves) != len(job.held.leaves):
                raise CannotCompileError("a micro-batch changes the names of the buffers")
        assert total is not None  # a fold has one micro-batch at least
        total = total if exchange is None else exchange.exchanged(total)
        outputs, structure = tree_flatten(total)
        mine = {id(leaf): place for place, leaf in enumerate(job.held.leaves)}
        places = [mine.get(id(leaf)) for leaf in outputs]  # buffers that no forward pass changed
        tensors = [leaf for leaf, place in zip(outputs, places, strict=True) if place is None]
        key = (*total.aux, *places, *map(looks, tensors))

        def run(body: Body, numbers: list[Any], leaves: Leaves, tensors: Leaves) -> Result:
            given = iter(tensors)
            parts = [next(given) if place is None else leaves[place] for place in places]
            return body.update(tree_unflatten(parts, structure), numbers, leaves)

        return self._written(job, Call("update", key, run), tensors)

    def _gradient(self, job: Job, seed: int, batch: Any, leaves: Leaves) -> Graded:
        tensors, key = signed(batch)

        def run(body: Body, numbers: list[Any], leaves: Leaves, tensors: Leaves) -> Result:
            return body.gradient(batch, numbers, leaves, tensors)

        inputs = [*job.inputs, *leaves, *tensors]
        entry = self._entry(
            job, Call("gradient", (key, *map(looks, leaves[: job.held.form.buffers])), run), inputs, seed
        )
        if entry is None:
            body = job.body(seed)
            return tree_unflatten(run(body, job.numbers, leaves, tensors).outputs, body.names)
        return tree_unflatten(entry.run(inputs, self._generators(job, entry, seed)), entry.names)

    def _written(self, job: Job, call: Call, tensors: Leaves) -> Metrics:
        """Run what writes the next state, and hand it over: all of it or nothing, whenever somebody presses Ctrl-C."""
        state, inputs = job.state, [*job.inputs, *job.held.leaves, *tensors]
        entry = self._entry(job, call, inputs, state.seed)
        if entry is not None and not entry.proven and lender_of(state) is job.held:
            job.held = job.held.copy()  # the first run may fail, for a batch of the wrong dtype say: on a copy
            inputs = [*job.inputs, *job.held.leaves, *tensors]
        new = lent(job.held, state.position + 1, state.seed)
        if entry is None:
            body = job.body(state.seed)
            result = call.run(body, job.numbers, job.held.leaves, tensors)
            with Guard():
                write(result)
                self._hand_over(state, new, job.give)
            return dict(zip(body.names, result.outputs, strict=True))
        with Guard():
            try:
                outputs = entry.run(inputs, self._generators(job, entry, state.seed))
            except BaseException as error:
                self._lost(job, error)
                raise
            self._hand_over(state, new, job.give)
        return dict(zip(entry.names, outputs, strict=True))

    def _entry(self, job: Job, call: Call, inputs: Leaves, seed: int) -> Entry | None:
        """The program of a call, for these inputs; None if it is to run without."""

        first, last = len(job.inputs), len(job.inputs) + len(job.held.leaves)

        def flat(body: Body, inputs: Leaves) -> Result:
            return call.run(body, inputs[:first], inputs[first:last], inputs[last:])

        def make() -> Entry:
            body, position = job.body(seed), job.state.position
            several = isinstance(job.step, Ensemble)
            program = make_program(
                partial(flat, body),
                inputs,
                mix(seed, position),
                members=job.step.size if several else 1,
                elsewhere=None
                if job.kind.is_ours()
                else partial(flat, evolve(body, position=position + 1, seed=seed + 1)),
            )
            return Entry(program, body.names)

        entry = self._cache.get(call.what, (job.key, call.key), make)
        job.eager = job.eager or entry is None
        return entry

    def _plainly(
        self, step: Any, state: TrainState, batch: Any, give: bool, refusal: tuple[int, str] | None = None
    ) -> tuple[TrainState, Metrics]:
        """The step as it is. A mistake of the user's raises here what it raises in eager, and is no refusal."""
        new, metrics = step.step(state, batch)
        self.stats.mode, self.stats.eager = "eager", self.stats.eager + 1
        if refusal is not None:
            number, reason = refusal
            self._refused.add(number)
            if self.stats.fallback != reason:
                self.stats.fallback = reason
                warnings.warn(f"compiled: runs eagerly, because {reason}", FallbackWarning, stacklevel=4)
        with Guard():
            self._hand_over(state, new, give)
        return new, metrics

    def _hand_over(self, state: TrainState, new: TrainState, give: bool) -> None:
        self.last_state = new
        if give:
            donate(state)

    def _lost(self, job: Job, error: BaseException) -> None:
        if lender_of(job.state) is job.held:
            donate(job.state)
            self.last_state = None
            error.add_note("fnopt: kernels were writing the next state when this was raised; load a checkpoint")

    def _generators(self, job: Job, entry: Entry, seed: int) -> Any:
        random, device = entry.program.random, job.held.form.device()
        return seeded(mix(seed, job.state.position), device) if random else nullcontext()

    def _job(self, number: int, step: Any, state: TrainState, batch: Any, give: bool) -> Job:
        held = self._held(number, step, state, give)
        self.stats.buffers = len(held.leaves)
        device = held.form.device()
        kind, numbers, inputs, seen = self._kinds.last(device)
        key = number, index(self._forms, held.form), seen, self._kinds.flags(number, device)
        return Job(step, state, batch, give, kind, numbers, inputs, held, key)

    def _held(self, number: int, step: Any, state: TrainState, give: bool) -> Held:
        """The state as packed leaves that may be written: its own, if this engine returned it; else a copy."""
        held = lender_of(state)
        if isinstance(held, Held) and held.shows(state):
            place = index(self._forms, held.form)
            if (number, place) not in self._fits and hold(step, state).form == held.form:
                self._fits.add((number, place))
            if (number, place) in self._fits:
                return held if give else held.copy()
        held = hold(step, state)
        self._fits.add((number, index(self._forms, held.form)))
        return held


def _folds(step: Any) -> bool:
    return isinstance(step, Step) and oracle_of(split(cast("Step[Any]", step).grad_fn)[1]) is not None
