"""Events: callbacks are checked once, called in their order, and what they remember goes into checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ..callbacks.reporter import Reporter
from ..callbacks.view import View
from ..errors import UsageError

NAMES = ("on_update", "on_validate", "on_save")


@attrs.frozen
class Events:
    """The callbacks of a run; those that lack a method are not called for it."""

    callbacks: tuple[Any, ...]
    _steps: tuple[Any, ...] = attrs.field(init=False)  # those that are called after every step
    _looks: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        for callback in self.callbacks:
            if isinstance(callback, type) or not any(callable(getattr(callback, name, None)) for name in NAMES):
                fix = (
                    f"write {callback.__name__}(…)" if isinstance(callback, type) else "write a class with one of them"
                )
                raise UsageError(
                    f"Trainer: callbacks has {callback!r}, expected objects with {', '.join(NAMES)}; {fix}"
                )
        steps = tuple(self._having("on_update"))
        object.__setattr__(self, "_steps", steps)
        # a Reporter has no eyes for the model, and need not wait until the weights are in it
        object.__setattr__(self, "_looks", any(not isinstance(callback, Reporter) for callback in steps))

    def update(self, view: View, show_weights: Callable[[], None]) -> None:
        """After a step."""
        if self._looks:
            show_weights()
        for callback in self._steps:
            callback.on_update(view)

    def validate(self, view: View) -> tuple[str, ...]:
        """After a validation; who asks to stop? All are called."""
        return self._asking(self._having("on_validate"), view)

    def ask_again(self, view: View) -> tuple[str, ...]:
        """At the place of the last validation, where a run goes on: who asks to stop? Reporters have been told."""
        return self._asking([one for one in self._having("on_validate") if not isinstance(one, Reporter)], view)

    def save(self, view: View) -> None:
        """After a checkpoint."""
        for callback in self._having("on_save"):
            callback.on_save(view)

    def close(self) -> None:
        """At the end of a training."""
        for callback in self._having("close"):
            callback.close()

    def state_dict(self) -> dict[str, Any]:
        """What callbacks remember, by place and name."""
        return {key: callback.state_dict() for key, callback in self._remembering().items()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Give it back to those that are there again."""
        for key, callback in self._remembering().items():
            if key in states:
                callback.load_state_dict(states[key])

    def _asking(self, callbacks: list[Any], view: View) -> tuple[str, ...]:
        answers = [(type(callback).__name__, callback.on_validate(view)) for callback in callbacks]
        return tuple(name for name, answer in answers if answer is True)

    def _having(self, name: str) -> list[Any]:
        return [callback for callback in self.callbacks if hasattr(callback, name)]

    def _remembering(self) -> dict[str, Any]:
        named: dict[str, Any] = {}
        for callback in self._having("state_dict"):
            kind = type(callback).__name__
            place = sum(key.partition(" ")[0] == kind for key in named)
            named[f"{kind} {place}" if place else kind] = callback
        return named
