"""Losses that a Trainer can do without being told: classification, and models that return their own."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import LossError
from ..record import record

IGNORED = -100  # the label that torch's and Hugging Face's losses leave out


def classification_loss(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The summed cross-entropy of `(x, integer labels)`, and how many were right; labels of -100 do not count.

    The model gives logits with the classes last: [N, C] for labels [N], [N, T, C] for labels [N, T].

    >>> batch = torch.tensor([[0.0, 0.0], [9.0, 0.0]]), torch.tensor([0, -100])
    >>> loss, weight, aux = classification_loss(nn.Identity(), batch)
    >>> round(loss.item(), 4), weight, aux["accuracy"]
    (0.6931, tensor(1), tensor(1))

    Raises LossError for other batches and outputs, with the loss to write.
    """
    x, y = _pair(batch)
    logits = model(x)
    if not isinstance(logits, Tensor) or logits.shape[:-1] != y.shape:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise LossError(
            f"classification_loss: the model gave {got} for labels {list(y.shape)}, expected {[*y.shape, 'classes']}; "
            f"{_FIX}"
        )
    logits, y = logits.flatten(0, -2), y.flatten()
    loss = F.cross_entropy(logits, y, reduction="sum", ignore_index=IGNORED)
    return loss, (y != IGNORED).sum(), {"accuracy": (logits.argmax(-1) == y).sum()}


_FIX = "give loss=, a function of (model, batch) that returns (loss_sum, weight)"


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, tuple) and len(cast(tuple[Any, ...], batch)) == 2:
        x, y = cast(tuple[Any, Any], batch)
        if isinstance(y, Tensor) and y.ndim and y.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8):
            return x, y.long()
        kind = f"a tuple whose second part is {f'{y.dtype}' if isinstance(y, Tensor) else type(y).__name__}"
    else:
        kind = _kind(batch)
    raise LossError(
        f"classification_loss: the batch is {kind}, expected (x, integer labels); {_FIX}, or loss=fnopt.model_loss() "
        "for a model that returns its own loss"
    )


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict of {sorted(map(str, cast(dict[Any, Any], value)))}"
    return f"a {type(value).__name__}"


@record
class ModelLoss:
    """What `model_loss` makes: a loss."""

    shifted: bool = False

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(batch, dict) or "labels" not in batch:
            raise LossError(
                f'model_loss: the batch is {_kind(batch)}, expected a dict with "labels", by which the mean is '
                "counted; write loss(model, batch) -> (loss_sum, weight) yourself"
            )
        named = cast(dict[str, Any], batch)
        output: Any = model(**named)
        mean: Any = output.get("loss") if hasattr(output, "get") else getattr(output, "loss", None)
        if not isinstance(mean, Tensor):
            raise LossError(
                f"model_loss: the model returned {_kind(output)} without a loss, expected one with .loss; write "
                "loss(model, batch) -> (loss_sum, weight) yourself"
            )
        labels = named["labels"][..., 1:] if self.shifted else named["labels"]
        weight = (labels != IGNORED).sum()
        return torch.where(weight > 0, mean * weight, 0.0), weight


def model_loss(*, shifted: bool = False) -> ModelLoss:
    """The loss of models that return their own mean, as Hugging Face's do: `model(**batch).loss`, by its weight.

    The mean is over the labels that are not -100: `batch["labels"]`, of causal language models (`shifted=True`) all but
    the first of each sequence. So it can be accumulated, and validated over batches of unequal weight.

    >>> class Model(nn.Module):
    ...     def forward(self, x, labels):
    ...         return {"loss": F.mse_loss(x, labels)}
    >>> model_loss()(Model(), {"x": torch.zeros(4), "labels": torch.ones(4)})
    (tensor(4.), tensor(4))

    Raises LossError for a batch without labels, and a model that returns no loss.
    """
    return ModelLoss(shifted)
