"""The gradient by autograd: what a zeroth-order method is compared with."""

from collections.abc import Generator

import torch

from zerothorder.estimate import Estimate, Estimator, Step
from zerothorder.point import Point, Values


def gradient() -> Estimator:
    """∇L(θ) of every site, one forward and one backward pass. The loss and ‖∇L‖ are noted.

    The ledger keeps the gradient's hash, not its numbers: such a run is repeated with its data, not replayed.
    """

    def estimate(step: Step) -> Generator[list[Point], list[Values], Estimate]:
        (found,) = yield [Point(want="gradient")]
        parts = found.gradient or {}
        norm = float(sum(torch.sum(part.double() ** 2) for part in parts.values())) ** 0.5
        return Estimate((), {"loss": found.mean(), "gradient_norm": norm}, dense=parts, kept=False)

    return estimate
