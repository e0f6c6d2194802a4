"""MeZO as it is usually written, from the paper's algorithm alone: nothing of zerothorder is used here.

In place: +ε, loss, -2ε, loss, +ε, then the step, each from the same seed of the global generator.
"""

from collections.abc import Callable

import torch


class PlainMeZO:
    """`step(loss)` with a callable that evaluates the model."""

    def __init__(self, model: torch.nn.Module, lr: float, eps: float) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.lr, self.eps, self.count = lr, eps, 0

    @torch.no_grad()
    def step(self, loss: Callable[[], float]) -> float:
        self.count += 1
        self.perturb(1)
        plus = loss()
        self.perturb(-2)
        minus = loss()
        self.perturb(1)
        gradient = (plus - minus) / (2 * self.eps)
        torch.manual_seed(self.count)
        for p in self.parameters:
            z = torch.randn(p.shape, dtype=p.dtype)
            p.add_(z, alpha=-self.lr * gradient)
        return plus

    @torch.no_grad()
    def perturb(self, scale: float) -> None:
        torch.manual_seed(self.count)
        for p in self.parameters:
            z = torch.randn(p.shape, dtype=p.dtype)
            p.add_(z, alpha=scale * self.eps)
