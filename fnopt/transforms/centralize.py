"""Gradient centralization."""

from typing import ClassVar

from torch import Tensor

from ..record import record
from ..tensors import check_grads, check_params, tmap, wide
from ..types import Scope, Tensors


@record
class Centralize:
    r"""Subtract from the gradient of each unit its mean.

        g_i = g_i - mean(g_i)        for every slice i along the first dimension

    Vectors and scalars stay as they are.

    Law: the gradient of each unit sums to 0 (to rounding); doing it twice is doing it once.

    >>> transform, params = Centralize(), {"w": torch.zeros(2, 2)}
    >>> transform.transform({"w": torch.tensor([[1.0, 3.0], [5.0, 5.0]])}, {}, params)[0]
    {'w': tensor([[-1.,  1.],
            [ 0.,  0.]])}

    Source: Yong et al. 2020, arXiv:2004.01461.
    """

    scope: ClassVar[Scope] = "leaf"

    def init_state(self, params: Tensors) -> dict[str, Tensor]:
        """Nothing to remember."""
        check_params("Centralize", params)
        return {}

    def transform(
        self, grads: Tensors, state: dict[str, Tensor], params: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The gradients, centralized."""
        check_grads("Centralize", grads, params)
        return tmap(centralize, grads), state


def centralize(g: Tensor) -> Tensor:
    """One gradient minus the mean of each of its units."""
    if g.ndim < 2:
        return g
    exact = g.to(wide(g.dtype))
    return (exact - exact.mean(dim=tuple(range(1, g.ndim)), keepdim=True)).to(g.dtype)
