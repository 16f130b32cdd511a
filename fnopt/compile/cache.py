"""The programs of a compiled step: when one is made, and what is counted. Private to `compiled`."""

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Any

import attrs
import torch

from .program import CannotCompileError, Leaves, Program


@attrs.define
class Stats:
    """What a compiled step has done so far.

    mode       of the last step: "compiled", or "eager" where some of it ran without kernels
    graphs     programs that are kept: one per structure and shapes; under `accumulate` one for the gradient of each
               shape of micro-batch, and one for the update
    compiles   how often something was traced and compiled, or tried; stands still in a run that has settled
    eager      steps in mode "eager"
    buffers    tensors that the last state lies in
    fallback   why everything runs eagerly; None while it does not
    """

    mode: str = "not run"
    graphs: int = 0
    compiles: int = 0
    eager: int = 0
    buffers: int = 0
    fallback: str | None = None


@attrs.define
class Entry:
    """A program, the names of its outputs, and whether it has run: a trace does not find every mistake in a batch."""

    program: Program
    names: Any
    proven: bool = False

    def run(self, inputs: Leaves, generators: AbstractContextManager[Any]) -> Leaves:
        """The outputs. What it cannot do the first time is left to eager, which knows the names of things."""
        try:
            with generators:
                outputs = self.program(inputs)
        except Exception as error:
            if self.proven or isinstance(error, torch.OutOfMemoryError | MemoryError):
                raise
            raise CannotCompileError(_reason(error)) from error
        self.proven = True
        return outputs


class Cache:
    """Programs by what they do and for which shapes; with `at_once` each is made when its shapes are first seen."""

    def __init__(self, at_once: bool = False) -> None:
        self.stats = Stats()
        self.at_once = at_once
        self._entries: dict[Hashable, Entry] = {}
        self._seen: set[Hashable] = set()
        self._begun: set[str] = set()

    def get(self, what: str, key: Hashable, make: Callable[[], Entry]) -> Entry | None:
        """The program for this key. None where it is seen for the first time: it may be the last batch of an epoch,
        which is not worth seconds; but the very first of its sort is made at once.

        Raises CannotCompileError with the reason, whatever the trouble was.
        """
        full = what, key
        entry = self._entries.get(full)
        if entry is not None:
            return entry
        due = self.at_once or what not in self._begun or full in self._seen
        self._begun.add(what)
        self._seen.add(full)
        if not due:
            return None
        self.stats.compiles += 1
        try:
            self._entries[full] = entry = make()
        except Exception as error:
            raise CannotCompileError(_reason(error)) from error
        self.stats.graphs = len(self._entries)
        return entry


def _reason(error: Exception) -> str:
    if isinstance(error, CannotCompileError):
        return str(error)
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first.strip()}"
