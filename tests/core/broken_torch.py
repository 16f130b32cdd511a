"""Broken subclasses of torch.optim."""

import torch


class CentralizesInPlace(torch.optim.SGD):
    """Subtracts the mean from the gradient itself."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.sub_(p.grad.mean()) if p.grad.numel() > 1 else p.grad.zero_()
        return super().step(closure)


class DropsGradients(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        self.zero_grad()


class CountsWhereNoFileLooks(torch.optim.SGD):
    """A warm-up counted outside of its state."""

    calls = 0

    def step(self, closure=None):
        self.calls += 1
        for group in self.param_groups:
            group["lr"] = 0.1 / self.calls
        return super().step(closure)
