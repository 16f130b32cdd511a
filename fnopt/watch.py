"""Watch: how `run` notices that all steps are skipped, without waiting for the device at each, and what follows."""

import warnings
from typing import Any, Literal, cast, get_args

import attrs

from .errors import EmptyDataError, HyperparameterError, NonFiniteError, RollbackWarning
from .nonfinite import NonFinite, bad_names, find_nonfinite, is_searching
from .record import evolve
from .state import TrainState, snapshot
from .types import Metrics

OnNonFinite = Literal["raise", "rollback"]
SPACING = 100  # steps between two snapshots: PaLM went back about as far (Chowdhery et al. 2022, 5.1, arXiv:2204.02311)
ROLLBACKS = 3  # from one snapshot


@attrs.define
class Watch:
    """Counts the skipped steps of one run.

    patience      skipped steps in a row that are one too many
    on_nonfinite  what happens then
    due           steps until the next look, which waits for the device. After a look that finds c skipped in a row the
                  next comes in patience - c steps: exactly at the patience-th, if all between are skipped too; and a
                  sound run is looked at once in `patience` steps
    taken         steps so far: those of an earlier run do not count, whose data somebody may have mended
    good          the last state from which an update was made, kept for a rollback; None without
    kept          when that was, in steps
    backs         rollbacks to it
    """

    step: Any
    patience: int
    on_nonfinite: OnNonFinite
    due: int
    taken: int = 0
    good: TrainState | None = None
    kept: int = 0
    backs: int = 0
    _next: TrainState | None = None  # a snapshot that is good if the step after it is applied

    @classmethod
    def begin(cls, step: Any, state: TrainState, patience: int, on_nonfinite: OnNonFinite) -> "Watch":
        """Before the first step."""
        if type(cast(object, patience)) is not int or patience < 1:
            raise HyperparameterError(f"run: patience must be an int >= 1, got {patience!r}")
        if on_nonfinite not in get_args(OnNonFinite):
            raise HyperparameterError(f'run: on_nonfinite must be "raise" or "rollback", got {on_nonfinite!r}')
        good = snapshot(state) if on_nonfinite == "rollback" else None
        return cls(step, patience, on_nonfinite, due=patience, good=good)

    def before(self, state: TrainState) -> None:
        """Before a step: a copy of the state, where it is time for one."""
        if self.good is not None and self.due == 1 and self.taken - self.kept >= SPACING:
            self._next = snapshot(state)

    def after(self, state: TrainState, batch: Any, metrics: Metrics) -> TrainState:
        """After a step: the state to go on with. Raises where nothing but skipped steps would follow."""
        self.taken += 1
        self.due -= 1
        if self.due:
            return state
        skipped = _skipped_in_a_row(state)
        if not skipped and self._next is not None:
            self.good, self.kept, self.backs = self._next, self.taken, 0
        self._next = None
        self.due = self.patience - min(skipped, self.taken)
        if self.due > 0:
            return state
        self.due = self.patience
        if is_searching(self.step, state, batch, metrics):
            return state
        return self._stuck(skipped, state, find_nonfinite(self.step, state, batch, metrics))

    def _stuck(self, skipped: int, state: TrainState, report: NonFinite) -> TrainState:
        which = f"last {skipped} steps were all" if skipped > 1 else "last step was"
        what = f"run: the {which} skipped; {report}"
        if report.weightless:
            raise EmptyDataError(f"{what}; expected a sample or token that counts: look at the masks and the data")
        good = self.good
        if good is None or self.backs == ROLLBACKS or bad_names(good.params):
            error = NonFiniteError(f"{what}; {self._advice()}")
            error.report = report
            raise error
        self.backs += 1
        warnings.warn(
            f"{what}; going back from update {int(state.updates.max())} to {int(good.updates.max())}, and on with the "
            f"data from position {state.position} (rollback {self.backs} of at most {ROLLBACKS} to there)",
            RollbackWarning,
            stacklevel=4,
        )
        return evolve(good, position=state.position)

    def _advice(self) -> str:
        if self.on_nonfinite == "raise":
            return 'look at this batch, lower lr, clip, or let run(…, on_nonfinite="rollback") pass over it'
        return f"{self.backs} rollbacks did not help: look at this batch, lower lr, or clip"


def _skipped_in_a_row(state: TrainState) -> int:
    """Of an ensemble the least: while one member goes on, all do. 0 for a step of somebody else's that counts none."""
    skipped = state.loss_scale.get("skipped_in_a_row")
    return 0 if skipped is None else int(skipped.min())
