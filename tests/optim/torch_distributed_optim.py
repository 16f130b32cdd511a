"""torch.distributed.optim, which scripts a dozen old optimizers as it is imported and is warned by torch for that."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
    from torch.distributed.optim import _get_in_backward_optimizers as get_in_backward_optimizers

__all__ = ["ZeroRedundancyOptimizer", "apply_optimizer_in_backward", "get_in_backward_optimizers"]
