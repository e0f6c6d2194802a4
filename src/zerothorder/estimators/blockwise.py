"""A slope for every block of the weights, one after the other or all at the same place."""

from collections.abc import Generator
from typing import Literal

from zerothorder.directions.blocks import block_count
from zerothorder.errors import UsageError
from zerothorder.estimate import Estimate, Estimator, Step
from zerothorder.estimators.finite_difference import check_eps
from zerothorder.key import Key
from zerothorder.point import Point, Values

Order = Literal["gauss-seidel", "jacobi"]
ORDERS = ("gauss-seidel", "jacobi")


def blockwise(eps: float, order: str = "gauss-seidel") -> Estimator:
    """ρ_b = (L(θ_b + ε z_b) - L(θ_b - ε z_b)) / 2ε for each of B blocks, z_b on block b alone; estimate Σ_b ρ_b z_b.

    "jacobi": θ_b = θ, all points in one go. "gauss-seidel": θ_b = θ - lr Σ_{a<b} ρ_a z_a, where the step would be after
    the blocks before; B rounds of two points, and what is noted as the loss is that of the first. 2B evaluations.
    """
    check_eps(eps)
    if order not in ORDERS:
        raise UsageError(f"unknown order {order!r}; there is {' and '.join(ORDERS)}")

    def estimate(step: Step) -> Generator[list[Point], list[Values], Estimate]:
        keys = [step.key(block) for block in range(block_count(step.state))]
        rounds = [keys] if order == "jacobi" else [[key] for key in keys]
        terms = list[tuple[Key, float]]()
        losses = list[float]()
        for some in rounds:
            moved = tuple((key, -step.lr * slope) for key, slope in terms if step.lr)
            values = yield [Point((*moved, (key, sign * eps))) for key in some for sign in (1.0, -1.0)]
            means = [v.mean() for v in values]
            slopes = [(up - down) / (2 * eps) for up, down in zip(means[::2], means[1::2], strict=True)]
            terms += zip(some, slopes, strict=True)
            losses.append(sum(means) / len(means))
        return Estimate(tuple(terms), {"loss": losses[0]})

    return estimate
