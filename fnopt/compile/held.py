"""Held: the tensors of a state as one list, packed, which `compiled` writes the next state into. Private."""

from contextlib import suppress
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from .._torch import tree_flatten, tree_leaves, tree_unflatten
from ..ensemble import Ensemble
from ..state import TrainState
from ..step import Step
from ..tensors import tensor_map
from .layout import Layout, layout_of, plain_layout
from .program import CannotCompileError, Leaves, apart, looks

FIELDS = ("buffers", "params", "opt_state", "loss_scale", "updates", "extra")  # buffers first: a fold replaces them


@attrs.frozen
class Form:
    """What two states share that the same kernels can run on.

    layout     how params and the optimizer's state are packed
    structure  of the packed trees, FIELDS in that order
    buffers    how many of the leaves are the module's buffers
    leaves     shape, stride, dtype and device of each
    stacked    have all tensors the members of an ensemble as first dimension, also the packed ones?
    """

    layout: Layout
    structure: Any
    buffers: int
    leaves: list[tuple[Any, ...]]
    stacked: bool

    def packed(self, leaves: Leaves, position: int, seed: int) -> TrainState:
        """The state as packed rules see it."""
        return TrainState(position=position, seed=seed, **tree_unflatten(leaves, self.structure))

    def show(self, field: str, tree: Any) -> Any:
        """One field with the user's names."""
        node = self.layout.params if field == "params" else self.layout.state if field == "opt_state" else None
        if node is None:
            return tree
        return torch.vmap(node.unpack)(tree) if self.stacked else node.unpack(tree)

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
        leaves, structure = self._views[field]
        return leaves[0] if field == "updates" else tree_unflatten(leaves, structure)

    def shows(self, state: TrainState) -> bool:
        """Are the fields that somebody asked for still what they were, or has somebody put other tensors into them?"""
        for field, tree in state.__dict__.items():
            if field in FIELDS:
                views, shown = self._views.get(field, ([], None))
                if field == "updates" and views and tree is views[0]:
                    continue  # loops read it at every step
                leaves, structure = tree_flatten(tree)
                if structure != shown or any(a is not b for a, b in zip(leaves, views, strict=True)):
                    return False
        return True

    def copy(self) -> "Held":
        """The same in memory of its own."""
        return Held(self.form, [leaf.clone() for leaf in self.leaves])


def hold(step: Any, state: TrainState) -> Held:
    """A copy of a state, packed for the optimizer of this step; leaf by leaf where that cannot be.

    Raises CannotCompileError for a state that holds anything but plain tensors.
    """
    trees = {name: getattr(state, name) for name in FIELDS}
    for leaf in tree_leaves(trees):
        if type(leaf) is not Tensor or leaf.layout != torch.strided or leaf.requires_grad:
            raise CannotCompileError(f"the state holds {_kind(leaf)}, expected dense tensors that do not require grad")
    layout, stacked = _layout(step, state)
    packed = dict(trees)
    for name, node in (("params", layout.params), ("opt_state", layout.state)):
        if node is not None:
            packed[name] = torch.vmap(node.pack)(trees[name]) if stacked else node.pack(trees[name])
    leaves, structure = tree_flatten(packed)
    leaves = apart(leaves, tree_leaves(trees))
    return Held(Form(layout, structure, len(state.buffers), [looks(leaf) for leaf in leaves], stacked), leaves)


def _layout(step: Any, state: TrainState) -> tuple[Layout, bool]:
    """How to pack, and whether members are stacked: a member of an ensemble is packed as it would be alone."""
    stacked = isinstance(step, Ensemble)
    one = cast("Ensemble[Any]", step).inner if stacked else step
    if isinstance(one, Step):
        # a stranger's init_state may not like tensors without memory: its state stays unpacked
        with suppress(Exception):
            params, memory = state.params, state.opt_state
            if stacked:
                params, memory = tensor_map(_first, params), tensor_map(_first, memory)
            layout = layout_of(cast("Step[Any]", one).optimizer, params, memory)
            if any(name != key for name, key in layout.names.items()):
                return layout, stacked
    return plain_layout(state.params), False


def _first(leaf: Tensor) -> Tensor:
    return leaf[0]


def _kind(leaf: Any) -> str:
    grad = " that requires grad" if isinstance(leaf, Tensor) and leaf.requires_grad else ""
    return f"a {type(leaf).__name__}{grad}"
