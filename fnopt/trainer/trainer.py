"""`Trainer`: the pure pieces behind the arguments people know. Nothing in it could not be written by a user."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, cast

import attrs
import torch
from torch import nn

from ..callbacks import View
from ..checkpoint.document import JSON
from ..errors import DonatedStateError, UsageError
from ..record import evolve
from ..samples import brief
from ..signals import Stop, stop_on_signal
from ..state import TrainState, load_into
from ..step import StepFn
from ..types import Metrics
from ..watch import OnNonFinite
from .clocks import Interval
from .composing import compose
from .events import Events
from .loaders import Kept, resumable
from .overrides import Override, with_override
from .parts import Parts, averaged
from .plan import Plan
from .plateaus import after_validation, lowered, plateau_rates
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
    eval_interval            steps from one validation to the next; None: an epoch
    save_dir, save_interval  checkpoints, after so many steps (None: after validations), and after the best validations
    keep, monitor, mode      the last ones stay, and the best by the metric `monitor`, whose `mode` is "min" or "max"
    info          JSON of yours, which each checkpoint holds
    patience, on_nonfinite   of `run`: what happens after so many skipped steps in a row
    log_interval, progress   steps between two lines; progress=False prints nothing
    update_ratio  report how far each update goes: norm of the change by norm of the params
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
    save_interval: int | None = None
    keep: int = 3
    monitor: str = "loss"
    mode: Literal["min", "max"] = "min"
    info: Mapping[str, JSON] = attrs.field(factory=dict[str, JSON], repr=brief)
    patience: int = 10
    on_nonfinite: OnNonFinite = "raise"
    seed: int = 0
    callbacks: Sequence[Any] = ()
    compile: bool = False
    deterministic: bool = False
    update_ratio: bool = False
    progress: bool = True
    step: StepFn[Any] = attrs.field(init=False, repr=False)
    state: TrainState = attrs.field(init=False, repr=False)
    _parts: Parts = attrs.field(init=False, repr=False)
    _events: Events = attrs.field(init=False, repr=False)
    _saves: Saves = attrs.field(init=False, repr=False)
    _marks: Marks = attrs.field(init=False, repr=False, factory=Marks)
    _override: Override = attrs.field(init=False, repr=False, factory=dict[str, float])

    def __attrs_post_init__(self) -> None:
        self._parts = compose(self)
        self.step, self.state = self._parts.step, self._parts.state
        self._events = Events((*self._parts.reporters, *self.callbacks))
        self._saves = Saves(None if self.save_dir is None else Path(self.save_dir), self.keep, self.mode)

    def train(self, stop: Stop | None = None) -> Mapping[str, float]:
        """Train to the end, from wherever the run is; returns what the last validation measured.

        The first SIGINT or SIGTERM ends it after the step that runs, and saves; a program then exits with 130 or 143,
        a notebook goes on. Within a `stop_on_signal() as stop` of yours, `train(stop)` returns, and you decide. The
        model holds the trained weights afterwards, however it ends.
        """
        if self._is_done() and self._marks.validated == self.state.position:
            self._say(f"nothing to do: already at update {int(self.state.updates)}, the end of {self._parts.limit}")
            return self._marks.validation
        self._say(self.plan())
        with ExitStack() as stack:
            stack.enter_context(self._saves.training(self.state.position))
            stack.enter_context(train_mode(self.model))
            stack.enter_context(determinism(self.deterministic))
            asked = stack.enter_context(stop_on_signal()) if stop is None else stop
            stack.callback(self._show_weights)
            stack.callback(self._events.close)
            self._train(asked)
        if stop is None and is_program():
            asked.exit(self.save_dir or "nothing: there is no save_dir")
        if skips := int(self.state.loss_scale["skipped"].sum()):
            self._say(f"{skips} updates were skipped, not finite or without weight; patience=1 stops and names it")
        return self._marks.validation

    def evaluate(self, loader: Any = None) -> dict[str, float]:
        """The mean loss, and its aux, over the validation data or another loader, of `step.eval_params(state)`."""
        data = self._parts.held_out if loader is None else resumable("loader", loader, None, self.seed)[0]
        if data is None:
            raise UsageError("Trainer: there is no val_loader, expected one; give val_loader= or call evaluate(loader)")
        return self._parts.measured(self.step, self.state, data)

    def save_checkpoint(self, is_best: bool = False) -> Path:
        """Save the run into save_dir, with `is_best` its averaged weights as best.safetensors; returns the path."""
        own = {"override": self._override, "callbacks": self._events.state_dict(), "steps_per_epoch": self._parts.epoch}
        best = averaged(self.step, self.state) if is_best else None
        path = self._saves.save(self.state, best, self._marks, self.monitor, {**self.info, **own})
        self._show_weights()
        self._events.save(attrs.evolve(self._view({}), path=path, is_best=is_best))
        return path

    def load_checkpoint(self, path: str | os.PathLike[str] | None = None, override: Override | None = None) -> None:
        """Go on from a file, or from the newest good one in save_dir; the model holds its weights at once.

        `override={"lr": 1e-4}` changes hyperparameters from here on, and is written into the files that follow, whose
        runs keep it; `override={}` ends that.
        """
        state, marks, noted = self._saves.load(None if path is None else Path(path), self.state)
        changes = dict(noted.get("override", {}) if override is None else override)
        step = self._parts.step if self._override else self.step
        self.step = with_override(step, changes, state.params, self._parts.plateau)
        self.state, self._marks, self._override = state, marks, changes
        self._events.load_state_dict(noted.get("callbacks", {}))
        before, now = noted.get("steps_per_epoch", self._parts.epoch), self._parts.epoch
        self._show_weights()
        if before != now:
            self._say(f"the file is of a run with {before} updates per epoch, this one has {now}: it sees other data")

    @property
    def data(self) -> Any:
        """What train_loader became: `run(trainer.step, trainer.state, trainer.data, updates)` is the loop."""
        return self._parts.data

    def plan(self) -> Plan:
        """What the whole run is going to do. A plateau, an early stop and skipped updates are not in it."""
        return self._parts.planned(cast(Any, self.step).optimizer, int(self.state.updates), self._override)

    def _train(self, stop: Stop) -> None:
        """Steps, events and milestones, until the updates are made, or somebody asks to stop."""
        data = Kept(self._parts.data)
        asked = self._milestone(stop, owed=True)
        while not (asked or stop.requested or self._is_done()):
            self._follow_plateau()
            for state, metrics in self._parts.steps(self.step, self.state, data):
                self.state = state
                self._events.update(self._view(metrics), self._show_weights)
                asked = () if stop.requested else self._milestone(stop)
                if asked or stop.requested or self.state is not state:
                    break
        if asked and not self._is_done():
            self._say(f"stopped at update {int(self.state.updates)} of {self._parts.updates}: {', '.join(asked)} asked")
        best = not stop.requested and self._marks.validated < self.state.position and self._validate(stop)[1]
        if self._saves.folder is not None and (best or self._saves.last != self.state.position):
            self.save_checkpoint(is_best=best)

    def _is_done(self) -> bool:
        return int(self.state.updates) >= self._parts.updates

    def _milestone(self, stop: Stop, owed: bool = False) -> Sequence[str]:
        """Validate and save, where it is time, or was and a signal came; returns the callbacks that ask to stop."""
        position, asked, best = self.state.position, (), False
        every = self.eval_interval or self._parts.epoch or sys.maxsize
        if position % every == 0 and self._marks.validated < position:
            asked, best = self._validate(stop)
        elif owed and self._marks.validation and self._marks.validated == position:
            asked = self._events.ask_again(self._view({}))  # a run that was stopped stays so, in another process too
        due = not owed and position % (self.save_interval or every) == 0 and not stop.requested
        if self._saves.folder is not None and (best or due):
            self.save_checkpoint(is_best=best)
        return asked

    def _validate(self, stop: Stop) -> tuple[Sequence[str], bool]:
        """Measure and tell: who asks to stop, and is it the best? A signal ends it, and a resumed run does it again."""
        best = self._marks.best
        if self._parts.held_out is None:
            self._marks = attrs.evolve(self._marks, validated=self.state.position)
            return (), False
        try:
            found = self._parts.measured(self.step, self.state, until(stop, self._parts.held_out))
        except Stopped:
            return (), False
        value = monitored(found, self.monitor)
        self._marks = Marks(self.state.position, value if better(value, best, self.mode) else best, found)
        if self._parts.plateau:
            extra = after_validation(self._parts.plateau, found["loss"], self.state.extra)
            if change := lowered(self.state.extra, extra):
                self._say(f"update {int(self.state.updates)}: {change}, as the validation loss has stopped falling")
            self.state = evolve(self.state, extra=extra)
        self._show_weights()
        return self._events.validate(self._view({})), self._marks.best != best

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
