"""Two-point finite differences along random directions."""

from collections.abc import Callable, Generator, Sequence

from zerothorder.errors import UsageError
from zerothorder.estimate import Estimate, Estimator, Step
from zerothorder.key import Key
from zerothorder.point import Point, Values

Along = Callable[[Step, int], tuple[tuple[Key, float], ...]]
"""The direction of a step's j-th draw as a sum of keys with weights."""


def one_key(step: Step, draw: int) -> tuple[tuple[Key, float], ...]:
    """The draw itself."""
    return ((step.key(draw), 1.0),)


def central(eps: float, draws: int = 1, along: Along = one_key) -> Estimator:
    """n-SPSA: ρ_j = (L(θ + ε z_j) - L(θ - ε z_j)) / 2ε, estimate Σ_j ρ_j z_j / n. 2n evaluations.

    Unbiased for the gradient of L smoothed by ε; exact along z for quadratics. What is noted is the mean loss over all
    points and ρ_1 / n. z_j is what `along` says: one draw, or a sum of draws and vectors of the State, each with its
    own scalar in the ledger. Source: Spall 1992 (SPSA); Malladi et al. 2023 (n-SPSA for language models).
    """
    check_eps(eps)
    if draws < 1:
        raise UsageError(f"draws is {draws}; at least 1 direction a step is needed")

    def estimate(step: Step) -> Generator[list[Point], list[Values], Estimate]:
        ways = [along(step, j) for j in range(draws)]
        values = yield [Point(tuple((key, s * eps * c) for key, c in way)) for way in ways for s in (1.0, -1.0)]
        means = [v.mean() for v in values]
        slopes = [(up - down) / (2 * eps) / draws for up, down in zip(means[::2], means[1::2], strict=True)]
        terms = tuple((key, slope * c) for way, slope in zip(ways, slopes, strict=True) for key, c in way)
        return Estimate(terms, {"loss": sum(means) / len(means), "projected_gradient": slopes[0]})

    return estimate


def one_sided(eps: float, draws: int = 1) -> Estimator:
    """ρ_j = (L(θ + ε z_j) - L(θ)) / ε. n + 1 evaluations; biased by ε/2 · zᵀHz where `central` is not."""
    check_eps(eps)

    def estimate(step: Step) -> Generator[list[Point], list[Values], Estimate]:
        keys = [step.key(j) for j in range(draws)]
        base, *values = yield [Point(), *(Point(((key, eps),)) for key in keys)]
        here = base.mean()
        terms = tuple((key, (v.mean() - here) / eps / draws) for key, v in zip(keys, values, strict=True))
        return Estimate(terms, {"loss": here})

    return estimate


def plus_minus(keys: Sequence[Key], eps: float) -> list[Point]:
    """θ + ε z and θ - ε z of each key, one after the other."""
    return [Point(((key, sign * eps),)) for key in keys for sign in (1.0, -1.0)]


def check_eps(eps: float) -> None:
    """UsageError for an ε that is no positive number."""
    if not 0 < eps < float("inf"):
        raise UsageError(f"eps is {eps:g}; it must be a finite number above 0, for example 1e-3")
