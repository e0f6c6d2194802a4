"""The gradient by autograd: what a zeroth-order method is compared with."""

from collections.abc import Generator

import torch
from torch import Tensor

from zerothorder.estimate import Estimate, Estimator, Step
from zerothorder.point import Point, Values
from zerothorder.space import CHUNK


def gradient() -> Estimator:
    """∇L(θ) of every site, one forward and one backward pass. The loss and ‖∇L‖ are noted.

    The ledger keeps the gradient's hash, not its numbers: such a run is repeated with its data, not replayed.
    """

    def estimate(step: Step) -> Generator[list[Point], list[Values], Estimate]:
        (found,) = yield [Point(want="gradient")]
        parts = found.gradient or {}
        norm = sum(map(_squares, parts.values())) ** 0.5
        return Estimate((), {"loss": found.mean(), "gradient_norm": norm}, dense=parts, kept=False)

    return estimate


def _squares(part: Tensor) -> float:
    """Σ g² in float64, by pieces that stay in the cache."""
    return sum(float(piece.double().square().sum()) for piece in torch.split(part.reshape(-1), CHUNK))
