"""The slope along a direction by forward-mode differentiation: no ε."""

from collections.abc import Generator

from zerothorder.errors import UsageError
from zerothorder.estimate import Estimate, Estimator, Step
from zerothorder.point import Point, Values


def forward_gradient(draws: int = 1) -> Estimator:
    """ρ_j = ⟨∇L(θ), z_j⟩ exactly, by a Jacobian-vector product; estimate Σ_j ρ_j z_j / n. n evaluations of cost 2.

    The limit of `central` for ε → 0, without its error of third order. Unbiased for the gradient of L itself. Source:
    Baydin et al. 2022 ("Gradients without Backpropagation").
    """
    if draws < 1:
        raise UsageError(f"draws is {draws}; at least 1 direction a step is needed")

    def estimate(step: Step) -> Generator[list[Point], list[Values], Estimate]:
        keys = [step.key(j) for j in range(draws)]
        values = yield [Point(((key, 1.0),), want="slope") for key in keys]
        terms = tuple((key, v.mean_slope() / draws) for key, v in zip(keys, values, strict=True))
        return Estimate(terms, {"loss": sum(v.mean() for v in values) / len(values)})

    return estimate
