"""A `.pt` in torch's layout as a TrainState: matched by name, and as strict as fnopt's own files.

    model      params and buffers, as `model.state_dict()` has them
    optimizer  as `optimizer.state_dict()`; only its state counts, for a pure optimizer has its own numbers
    step       becomes `position`; `updates` is the clock of the optimizer, or else `step` too

The memory `opt_state/AdamW/decay/exp_avg/<name>` is what torch keeps of that parameter under an end of this path:
"exp_avg", or "decay.exp_avg". What such a file has no place for stays as in `like`: seed, loss scale, `extra`, what
transforms report, and the buffers that a module does not save, of which a warning tells.
"""

import os
import warnings
from collections.abc import Mapping
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from ..errors import CheckpointWarning, NotACheckpointError, UnsafeCheckpointError
from ..state import TrainState
from .accept import Accepted
from .document import check_strides
from .mismatch import compare
from .names import escape
from .reader import opened_file
from .torch_archive import read_archive
from .torch_memories import Memories, count, members_of

_KEYS = "model, optimizer and step"


def load_torch(
    path: str | os.PathLike[str], like: TrainState, wanted: Mapping[str, Tensor | None], allow_nonfinite: bool
) -> TrainState:
    """The state in a torch file, with the structure of `like`; errors as of `load_checkpoint`."""
    with opened_file(path) as (name, file, size):
        content = read_archive(name, file, size)
    if not isinstance(content, dict) or not isinstance(cast(Any, content).get("model"), Mapping):
        raise _no_layout(name, content)
    found = Found(name, cast(dict[str, Any], content), like)
    values = {**found.weights(), **found.memories()}
    stays = {key: leaf for key, leaf in wanted.items() if leaf is None or key.startswith(("loss_scale", "extra"))}
    described = {key: None if leaf is None else (leaf.shape, leaf.dtype) for key, leaf in {**stays, **values}.items()}
    compare(name, described, wanted, found.problems)
    accepted = Accepted(name)
    for key, leaf in wanted.items():
        if leaf is not None:
            # a copy, so that the file's storages, which may be larger, can go
            accepted.take(key, values.get(key, leaf).detach().to(leaf.device, copy=True), leaf.device)
    return accepted.state(like, found.step, like.seed, allow_nonfinite)


@attrs.define
class Found:
    """What a torch file holds, under the names of a state; `problems` are (name, expected, found)."""

    path: str
    content: dict[str, Any]
    like: TrainState
    step: int = 0
    problems: list[tuple[str, str, str]] = attrs.field(factory=list[tuple[str, str, str]])

    def weights(self) -> dict[str, Tensor]:
        """Params and buffers."""
        stored = {str(name): self._sound(str(name), value) for name, value in self.content["model"].items()}
        known = {name: value for name, value in stored.items() if name in self.like.params or name in self.like.buffers}
        # a tied parameter has several names in a module, one in a state
        memory = {(value.data_ptr(), value.shape) for value in known.values() if value.numel()}
        kept = {n: v for n, v in stored.items() if n in known or (v.data_ptr(), v.shape) not in memory}
        lacking = {name: leaf for name, leaf in self.like.buffers.items() if name not in kept}
        if lacking:
            listed = ", ".join(map(escape, list(lacking)[:5]))
            text = f"{self.path} holds {len(lacking)} buffers fewer than this state ({listed}); they stay as in `like`"
            warnings.warn(text, CheckpointWarning, stacklevel=4)
        named = {**kept, **lacking}
        return {("buffers/" if n in self.like.buffers else "params/") + escape(n): v for n, v in named.items()}

    def memories(self) -> dict[str, Tensor]:
        """The optimizer's state and the clocks."""
        optimizer: Any = self.content.get("optimizer") or {"state": {}, "param_groups": []}
        members = {
            name: {key: self._entry(f"{name}.{key}", value) for key, value in member.items() if value is not None}
            for name, member in members_of(self.path, optimizer, self.like).items()
        }
        found = Memories(members, self.like.params, self._step(members))
        found.fill(self.like.opt_state, ())
        self.step = found.step
        self.problems += found.problems
        updates = torch.tensor(max(found.clocks, default=found.step), dtype=self.like.updates.dtype)
        return {**found.values, **found.unused(), "updates": updates}

    def _step(self, members: Mapping[str, Mapping[str, Any]]) -> int:
        """The file's own count of steps; without one, the largest clock of its optimizer."""
        stored = self.content.get("step")
        if stored is None:
            stored = max((member["step"] for member in members.values() if "step" in member), default=None)
        step = count(stored)
        if step is None:
            self.problems.append(("position", "a step >= 0 in the file", repr(stored)[:40]))
        return step or 0

    def _entry(self, name: str, value: Any) -> Any:
        return self._sound(name, value) if isinstance(value, Tensor) else value

    def _sound(self, name: str, value: Any) -> Tensor:
        """A plain tensor that has as many entries in memory as its shape says."""
        if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
            what, expected, hint = f"a {type(value).__name__}", "a plain dense tensor", "save it as one"
            raise UnsafeCheckpointError(
                f"{self.path} holds {what} under {escape(name)[:80]}, expected {expected}; {hint}",
                path=self.path,
                item=name,
                expected=expected,
                found=what,
                hint=hint,
            )
        check_strides(self.path, escape(name)[:80], value.shape, value.stride())
        return cast(Tensor, value).detach()


def _no_layout(path: str, content: Any) -> NotACheckpointError:
    keys = [str(key)[:40] for key in list(cast(Any, content))[:8]] if isinstance(content, dict) else []
    what = f"a torch file with {f'the keys {keys}' if keys else f'a {type(cast(object, content)).__name__} in it'}"
    hint = "fnopt.export_torch makes one, as does torch.save of state_dicts under these keys"
    return NotACheckpointError(
        f"{path} is {what}, expected one with {_KEYS}; {hint}",
        path=path,
        item="keys",
        expected=_KEYS,
        found=what,
        hint=hint,
    )
