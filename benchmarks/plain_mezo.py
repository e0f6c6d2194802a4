"""MeZO loops in plain torch, from the paper's algorithm alone: nothing of zerothorder is used here.

All of them perturb the weights in place and draw z again from a seed in every pass.
"""

from collections.abc import Callable

import torch

Loss = Callable[[], float]


class PlainMeZO:
    """As it is usually written: +ε, loss, -2ε, loss, +ε, then the step, each from one seed of the global generator."""

    def __init__(self, model: torch.nn.Module, lr: float, eps: float) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.lr, self.eps, self.count = lr, eps, 0

    @torch.no_grad()
    def step(self, loss: Loss) -> float:
        """One step; returns the loss at θ + εz."""
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


class FusedMeZO:
    """Three passes instead of four: +ε, -2ε, and restoring and moving in one, w += (ε - lr·g) z.

    A generator of its own, seeded for every tensor.
    """

    def __init__(self, model: torch.nn.Module, lr: float, eps: float) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.lr, self.eps, self.count = lr, eps, 0
        self.generator = torch.Generator()

    def step(self, loss: Loss) -> float:
        """One step; returns the loss at θ + εz."""
        self.count += 1
        self.add(self.eps)
        plus = loss()
        self.add(-2 * self.eps)
        minus = loss()
        self.add(self.eps - self.lr * (plus - minus) / (2 * self.eps))
        return plus

    @torch.no_grad()
    def add(self, scale: float) -> None:
        for index, p in enumerate(self.parameters):
            self.generator.manual_seed(self.count * len(self.parameters) + index)
            z = torch.randn(p.shape, dtype=p.dtype, generator=self.generator)
            p.add_(z, alpha=scale)


class PlainPopulation:
    """Several draws a step, all at the same θ: for each +ε, loss, -2ε, loss, +ε; then the step along all of them."""

    def __init__(self, model: torch.nn.Module, lr: float, eps: float, draws: int) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.lr, self.eps, self.draws, self.count = lr, eps, draws, 0
        self.generator = torch.Generator()

    def step(self, loss: Loss) -> None:
        """One step of 2 · draws losses."""
        self.count += 1
        gradients: list[float] = []
        for draw in range(self.draws):
            self.add(draw, self.eps)
            plus = loss()
            self.add(draw, -2 * self.eps)
            minus = loss()
            self.add(draw, self.eps)
            gradients.append((plus - minus) / (2 * self.eps))
        for draw, gradient in enumerate(gradients):
            self.add(draw, -self.lr * gradient / self.draws)

    @torch.no_grad()
    def add(self, draw: int, scale: float) -> None:
        self.generator.manual_seed(self.count * self.draws + draw)
        for p in self.parameters:
            z = torch.randn(p.shape, dtype=p.dtype, generator=self.generator)
            p.add_(z, alpha=scale)
