"""`Trainer`: the pure pieces behind the arguments people know. Nothing in it could not be written by a user."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import attrs
import torch
from torch import nn

from ..callbacks import View
from ..data import brief
from ..errors import DonatedStateError, UsageError
from ..loop import evaluate, run
from ..record import evolve
from ..signals import Stop, stop_on_signal
from ..state import TrainState, load_into
from ..step import StepFn
from ..tensors import device_of
from ..types import Metrics
from .clocks import Interval
from .composing import Parts, compose, planned, reporters
from .events import Events
from .loaders import Kept, resumable
from .plan import Plan
from .plateaus import after_validation, plateau_rates
from .precisions import Precision
from .saves import Marks, Saves, better, monitored
from .surroundings import Stopped, determinism, is_program, train_mode, until


@attrs.define(kw_only=True, eq=False, slots=False)
class Trainer:
    """A run of a model, behind the arguments people know; docs/trainer.md has them all.

    optimizer     pure, of fnopt.optim, or torch's AdamW, Adam, SGD, …; it is read, with its state, and never written
    scheduler     a Schedule, a plateau, or torch's on this optimizer; it counts `scheduler_interval`s
    loss          `(model, batch) -> (loss_sum, weight)`; None: cross-entropy of (x, integer labels)
    max_epochs, max_steps    how many updates in all; of both, the fewer
    use_amp       bf16 where the device has it, else fp16; precision="fp32", "bf16" or "fp16" says it outright
    eval_interval            steps from one validation and checkpoint to the next; None: an epoch
    save_dir, keep           checkpoints: the last ones, and the best by `monitor` ("min" or "max" is the `mode`)
    log_interval, progress   steps between two lines; progress=False prints nothing
    callbacks     objects with any of on_update(view), on_validate(view), on_save(view)

    `trainer.step` and `trainer.state` are what `make_step` and `init_state` gave: use them as you like.

    >>> data = torch.utils.data.TensorDataset(torch.randn(8, 2), torch.tensor([0, 1] * 4))
    >>> model, loader = nn.Linear(2, 2), torch.utils.data.DataLoader(data, batch_size=4)
    >>> trainer = Trainer(model=model, optimizer=fnopt.SGD(0.1), train_loader=loader, max_epochs=2, progress=False)
    >>> _ = trainer.train()
    >>> int(trainer.state.updates), torch.equal(model.weight, trainer.state.params["weight"])
    (4, True)

    Raises HyperparameterError and UsageError, with the fix, for arguments that do not go together.
    """

    model: nn.Module = attrs.field(repr=brief)
    optimizer: Any = attrs.field()
    train_loader: Any = attrs.field(repr=brief)
    val_loader: Any = attrs.field(default=None, repr=brief)
    loss: Callable[..., Any] | None = None
    scheduler: Any = None
    scheduler_interval: Interval | None = None
    device: torch.device | str | None = None
    max_epochs: int | None = None
    max_steps: int | None = None
    grad_accum_steps: int = 1
    max_grad_norm: float | None = None
    use_amp: bool | None = None
    precision: Precision | None = None
    log_interval: int = 50
    eval_interval: int | None = None
    save_dir: str | os.PathLike[str] | None = None
    keep: int = 3
    monitor: str = "loss"
    mode: Literal["min", "max"] = "min"
    seed: int = 0
    callbacks: Sequence[Any] = ()
    compile: bool = False
    deterministic: bool = False
    progress: bool = True
    step: StepFn[Any] = attrs.field(init=False, repr=False)
    state: TrainState = attrs.field(init=False, repr=False)
    _parts: Parts = attrs.field(init=False, repr=False)
    _events: Events = attrs.field(init=False, repr=False)
    _saves: Saves = attrs.field(init=False, repr=False)
    _marks: Marks = attrs.field(init=False, repr=False, factory=Marks)

    def __attrs_post_init__(self) -> None:
        self._parts = compose(self)
        self.step, self.state = self._parts.step, self._parts.state
        self._events = Events((*reporters(self), *self.callbacks))
        self._saves = Saves(None if self.save_dir is None else Path(self.save_dir), self.keep, self.mode)

    def train(self) -> Mapping[str, float]:
        """Train to the end, from wherever the run is; returns what the last validation measured.

        The first SIGINT or SIGTERM ends it after the step that runs, and saves; a program then exits with 130 or 143,
        a notebook goes on. The model holds the trained weights afterwards, however it ends.
        """
        if self._is_done() and self._marks.validated == self.state.position:
            self._say(f"nothing to do: already at update {int(self.state.updates)}, the end of {self._parts.limit}")
            return self._marks.validation
        self._say(self.plan())
        with ExitStack() as stack:
            stack.enter_context(self._saves.training(self.state.position))
            stack.enter_context(train_mode(self.model))
            stack.enter_context(determinism(self.deterministic))
            stop = stack.enter_context(stop_on_signal())
            stack.callback(self._show_weights)
            stack.callback(self._events.close)
            self._train(stop)
        if stop.requested and is_program():
            stop.exit(self.save_dir or "nothing: there is no save_dir")
        if skipped := int(self.state.loss_scale["skipped"].sum()):
            self._say(f"{skipped} updates were skipped: something in them was not finite, or nothing had weight")
        return self._marks.validation

    def evaluate(self, loader: Any = None) -> dict[str, float]:
        """The mean loss, and its aux, over the validation data or another loader, of `step.eval_params(state)`."""
        data = self._parts.held_out if loader is None else resumable("loader", loader, None, self.seed)[0]
        if data is None:
            raise UsageError(
                "Trainer: there is no val_loader, expected one; call evaluate(loader), or give val_loader="
            )
        return self._measure(data)

    def save_checkpoint(self, is_best: bool = False) -> Path:
        """Save the run into save_dir, with `is_best` also as best.safetensors; returns the path."""
        noted = {"callbacks": self._events.state_dict(), "steps_per_epoch": self._parts.epoch}
        path = self._saves.save(self.state, self._marks, self.monitor, noted, is_best)
        self._show_weights()
        self._events.save(attrs.evolve(self._view({}), path=path, is_best=is_best))
        return path

    def load_checkpoint(self, path: str | os.PathLike[str] | None = None) -> None:
        """Go on from a file, or from the newest good one in save_dir; the model holds its weights at once."""
        found = self._saves.load(None if path is None else Path(path), self.state)
        self.state, self._marks, noted = found
        self._events.load_state_dict(noted.get("callbacks", {}))
        before, now = noted.get("steps_per_epoch", self._parts.epoch), self._parts.epoch
        if before != now:
            self._say(f"the file is of a run with {before} updates per epoch, this one has {now}: it sees other data")
        self._show_weights()

    @property
    def data(self) -> Any:
        """What train_loader became: `run(trainer.step, trainer.state, trainer.data, updates)` is the loop."""
        return self._parts.data

    def plan(self) -> Plan:
        """What the whole run is going to do. A plateau, an early stop and skipped updates are not in it."""
        return planned(self._parts, cast(Any, self.step).optimizer, int(self.state.updates))

    def _train(self, stop: Stop) -> None:
        """Steps, events and milestones, until the updates are made, or somebody asks to stop."""
        data = Kept(self._parts.data)
        asked = self._is_due() and self._marks.validated < self.state.position and self._milestone(stop)  # was owed
        while not (asked or stop.requested or self._is_done()):
            self._follow_plateau()
            for state, metrics in run(self.step, self.state, data, self._parts.updates):
                self.state = state
                self._events.update(self._view(metrics), self._show_weights)
                asked = self._is_due() and not stop.requested and self._milestone(stop)
                if asked or stop.requested or self.state is not state:
                    break
        if not stop.requested and self._marks.validated < self.state.position:
            self._milestone(stop)
        elif self._saves.folder is not None and self._saves.last != self.state.position:
            self.save_checkpoint()

    def _is_done(self) -> bool:
        return int(self.state.updates) >= self._parts.updates

    def _is_due(self) -> bool:
        every = self.eval_interval or self._parts.epoch
        return every is not None and self.state.position % every == 0

    def _milestone(self, stop: Stop) -> bool:
        """Validate and save; does a callback ask to stop? A signal ends it, and a resumed run does it again."""
        asked, best = False, self._marks.best
        if self._parts.held_out is None:
            self._marks = attrs.evolve(self._marks, validated=self.state.position)
        else:
            try:
                found = self._measure(until(stop, self._parts.held_out))
            except Stopped:
                return False
            value = monitored(found, self.monitor)
            self._marks = Marks(self.state.position, value if better(value, best, self.mode) else best, found)
            if self._parts.plateau:
                extra = after_validation(self._parts.plateau, found["loss"], self.state.extra)
                self.state = evolve(self.state, extra=extra)
            self._show_weights()
            asked = self._events.validate(self._view({}))
        if self._saves.folder is not None:
            self.save_checkpoint(is_best=self._marks.best != best)
        return asked

    def _measure(self, batches: Iterable[Any]) -> dict[str, float]:
        state, dtype = evolve(self.state, params=self.step.eval_params(self.state)), self._parts.dtype
        with torch.autocast(device_of(state.params).type, dtype) if dtype else nullcontext():
            return evaluate(self.model, self._parts.loss, state, batches)

    def _follow_plateau(self) -> None:
        if self._parts.plateau:
            step = cast(Any, self.step)
            self.step = evolve(step, optimizer=plateau_rates(step.optimizer, self.state.extra))

    def _view(self, metrics: Metrics) -> View:
        epoch = self.state.position // (self._parts.epoch or sys.maxsize)
        return View(self.state, metrics, epoch, self._parts.updates, self._marks.validation, self)

    def _show_weights(self) -> None:
        try:
            load_into(self.model, self.state)
        except DonatedStateError:  # a compiled step was left in the middle, and has kept what is whole
            self.state = cast(Any, self.step).last_state
            load_into(self.model, self.state)

    def _say(self, text: object) -> None:
        if self.progress:
            print(text, flush=True)
