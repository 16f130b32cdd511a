"""Held: the tensors of a state as one list, packed, which `compiled` writes the next state into. Private."""

from contextlib import suppress
from typing import Any

import attrs
import torch
from torch import Tensor

from ._torch import tree_flatten, tree_leaves, tree_unflatten
from .layout import Layout, layout_of, plain_layout
from .program import CannotCompileError, Leaves, apart, looks
from .state import TrainState

FIELDS = ("buffers", "params", "opt_state", "loss_scale", "updates", "extra")  # buffers first: a fold replaces them


@attrs.frozen
class Form:
    """What two states share that the same kernels can run on.

    layout     how params and the optimizer's state are packed
    structure  of the packed trees, FIELDS in that order
    buffers    how many of the leaves are the module's buffers
    leaves     shape, stride, dtype and device of each
    """

    layout: Layout
    structure: Any
    buffers: int
    leaves: list[tuple[Any, ...]]

    def packed(self, leaves: Leaves, position: int, seed: int) -> TrainState:
        """The state as packed rules see it."""
        return TrainState(position=position, seed=seed, **tree_unflatten(leaves, self.structure))

    def named(self, leaves: Leaves, position: int, seed: int) -> TrainState:
        """The state as its user sees it: views."""
        trees = tree_unflatten(leaves, self.structure)
        return TrainState(position=position, seed=seed, **{name: self.show(name, trees[name]) for name in FIELDS})

    def show(self, field: str, tree: Any) -> Any:
        """One field with the user's names."""
        if field == "params":
            return self.layout.params.unpack(tree)
        if field == "opt_state" and self.layout.state is not None:
            return self.layout.state.unpack(tree)
        return tree

    def flat(self, state: TrainState) -> Leaves:
        """The leaves of a packed state, which must have this form still."""
        leaves, structure = tree_flatten({name: getattr(state, name) for name in FIELDS})
        if structure != self.structure or [looks(leaf)[::2] for leaf in leaves] != [look[::2] for look in self.leaves]:
            raise CannotCompileError("a step changes the structure, a shape or a dtype of the state")
        return leaves

    def device(self) -> torch.device:
        """Where the params are."""
        return self.leaves[self.buffers][3] if len(self.leaves) > self.buffers else torch.device("cpu")


class Held:
    """The leaves of a living state; the states that a donating step returns one after another share it."""

    def __init__(self, form: Form, leaves: Leaves):
        self.form, self.leaves = form, leaves
        self._views: dict[str, tuple[list[Any], Any]] = {}  # of fields that somebody asked for

    def show(self, field: str) -> Any:
        """One field of the state, with the user's names; in fresh dicts, which are the user's to change."""
        if field not in self._views:
            tree = tree_unflatten(self.leaves, self.form.structure)[field]
            self._views[field] = tree_flatten(self.form.show(field, tree))
        return tree_unflatten(*self._views[field])

    def shows(self, state: TrainState) -> bool:
        """Are the fields that somebody asked for still what they were, or has somebody put other tensors into them?"""
        for field, tree in state.__dict__.items():
            if field in FIELDS:
                leaves, structure = tree_flatten(tree)
                views, shown = self._views.get(field, ([], None))
                if structure != shown or any(a is not b for a, b in zip(leaves, views, strict=True)):
                    return False
        return True

    def copy(self) -> "Held":
        """The same in memory of its own."""
        return Held(self.form, [leaf.clone() for leaf in self.leaves])


def hold(optimizer: Any | None, state: TrainState) -> Held:
    """A copy of a state, packed for this optimizer; without one, or if it cannot be packed, leaf by leaf.

    Raises CannotCompileError for a state that holds anything but plain tensors.
    """
    layout = plain_layout(state.params)
    if optimizer is not None:
        # a stranger's init_state may not like tensors without memory: its state stays unpacked
        with suppress(Exception):
            layout = layout_of(optimizer, state.params, state.opt_state)
    trees = {name: getattr(state, name) for name in FIELDS}
    for leaf in tree_leaves(trees):
        if type(leaf) is not Tensor or leaf.layout != torch.strided or leaf.requires_grad:
            raise CannotCompileError(f"the state holds {_kind(leaf)}, expected dense tensors that do not require grad")
    packed = {**trees, "params": layout.params.pack(trees["params"])}
    if layout.state is not None:
        packed["opt_state"] = layout.state.pack(trees["opt_state"])
    leaves, structure = tree_flatten(packed)
    leaves = apart(leaves, tree_leaves(trees))
    return Held(Form(layout, structure, len(state.buffers), [looks(leaf) for leaf in leaves]), leaves)


def _kind(leaf: Any) -> str:
    grad = " that requires grad" if isinstance(leaf, Tensor) and leaf.requires_grad else ""
    return f"a {type(leaf).__name__}{grad}"
