"""Plan: what a run is going to do, before it does it."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch.utils.data import TensorDataset

from ..data import Batches
from ..rules.describe import learning_rates


@attrs.frozen
class Plan:
    """A run in numbers; `print` shows them as a table.

    updates      that are applied in all; done are those so far
    epoch        updates of one epoch; None where the loader has no length
    micro_steps  gradients in all; None where unknown
    tail         what the last update of an epoch is made of, if it is less than the others
    samples      in all, each as often as it is seen; None where unknown
    tokens       in all, where samples are sequences of integers of one known length; else None
    rates        the first, the highest and the last learning rate, in words
    notes        what was decided for you
    """

    updates: int
    done: int
    epoch: int | None
    micro_steps: int | None
    tail: str
    samples: int | None
    tokens: int | None
    rates: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        epochs = f" ({round(self.updates / self.epoch, 2):g} epochs of {self.epoch})" if self.epoch else ""
        begun = f", from update {self.done} on" if self.done else ""
        rows: dict[str, str] = {
            "updates": f"{self.updates}{epochs}{begun}",
            "micro-steps": "unknown" if self.micro_steps is None else str(self.micro_steps),
            "tail": self.tail,
            "samples": "unknown" if self.samples is None else str(self.samples),
        }
        if self.tokens is not None:
            rows["samples"] += f" ({self.tokens:,} tokens)"
        return "\n".join([f"{name + ':':<13}{text}" for name, text in rows.items()] + [self.rates, *self.notes])


def counted(data: Any, updates: int) -> dict[str, Any]:
    """The numbers of a plan that depend on the data."""
    epoch, micro = length_of(data), getattr(data, "micro_batches", None) or 1
    unknown = {"epoch": epoch, "micro_steps": None if micro > 1 else updates, "tail": "unknown"}
    unknown |= {"samples": None, "tokens": None}
    if not isinstance(data, Batches):
        return unknown
    assert epoch is not None
    total = len(data.dataset)
    if data.tail != "step":
        total -= total % (data.batch_size if data.tail == "full" else data.batch_size * micro)
    window, (epochs, rest) = data.batch_size * micro, divmod(updates, epoch)
    last = total - (epoch - 1) * window
    parts = -(-total // data.batch_size)
    tail = f"the last update of an epoch has {last} of {window} samples" if last < window else "none: epochs end even"
    samples, each = epochs * total + rest * window, tokens_of(data)
    return {
        "epoch": epoch,
        "micro_steps": epochs * parts + rest * micro,
        "tail": tail,
        "samples": samples,
        "tokens": samples * each if each else None,
    }


def tokens_of(data: Any) -> int | None:
    """Tokens of each sample: the length of its parts, where all are sequences of integers; else None.

    Nothing is drawn: it is known of a TensorDataset, and of a dataset that says so itself, as `sample_tokens`.

    >>> dataset = torch.utils.data.TensorDataset(torch.zeros(9, 16).long(), torch.zeros(9, 16).long())
    >>> tokens_of(Batches(dataset, 2))
    16
    """
    dataset = getattr(data, "dataset", None)
    if isinstance(dataset, TensorDataset):
        shapes = {leaf.shape[1:] if _whole(leaf) else None for leaf in dataset.tensors}
        shape = shapes.pop() if len(shapes) == 1 else None
        return shape[0] if shape is not None and len(shape) == 1 else None
    return getattr(dataset, "sample_tokens", None)


def _whole(leaf: torch.Tensor) -> bool:
    return not (leaf.dtype.is_floating_point or leaf.dtype.is_complex or leaf.dtype == torch.bool)


def length_of(data: Any) -> int | None:
    """Updates of one epoch, where that is known."""
    try:
        return len(data)
    except TypeError:  # as of a Stream, and of an IterableDataset
        return None


def rates_of(optimizer: Any, updates: int) -> str:
    """The first, the highest and the last learning rate of each rule, in words."""
    texts = [
        f"{name}: {curve[0]:.3g} first, {max(curve):.3g} peak, {curve[-1]:.3g} last"
        for name, curve in rate_curves(optimizer, max(1, updates)).items()
    ]
    return "; ".join(texts) or "none"


def rate_curves(optimizer: Any, updates: int) -> dict[str, list[float]]:
    """The learning rate of each update, for each rule: "lr" of one alone, else "lr/label"."""
    steps = torch.arange(updates)
    names = list(learning_rates(optimizer, torch.tensor(0)))
    found: dict[str, list[float]] = {}
    for name in names[1:] or names:  # "lr" is that of the first label again

        def rate(step: Any, name: str = name) -> Any:
            return torch.as_tensor(learning_rates(optimizer, step)[name], dtype=torch.float64)

        found[name] = _curve(rate, steps)
    return found


def _curve(rate: Callable[[Any], Any], steps: torch.Tensor) -> list[float]:
    try:
        return [float(value) for value in torch.vmap(rate)(steps).unbind()]
    except Exception:  # a Schedule of somebody's own, which asks Python questions of the step
        return [float(rate(step)) for step in steps.unbind()]
