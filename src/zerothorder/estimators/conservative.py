"""A step that is taken only where it lowers the loss of its own batch."""

import math
from collections.abc import Generator

from zerothorder.estimate import Estimate, Estimator, Step
from zerothorder.estimators.finite_difference import check_eps, plus_minus
from zerothorder.key import Key
from zerothorder.point import Point, Values


def conservative(eps: float, draws: int = 1) -> Estimator:
    """g from two points a draw; then the best of θ, θ - lr·g and θ + lr·g on the same batch: estimate 0, g or -g.

    2n + 3 evaluations. A value that is not a number counts as infinite; of equal values θ wins, then θ - lr·g. The
    noted `sign` says which it was (0, 1, -1), the noted loss is L(θ). Weight decay is the update's, after the choice.
    """
    check_eps(eps)

    def estimate(step: Step) -> Generator[list[Point], list[Values], Estimate]:
        keys = [step.key(j) for j in range(draws)]
        *values, base = yield [*plus_minus(keys, eps), Point()]
        means = [v.mean() for v in values]
        slopes = [(up - down) / (2 * eps) / draws for up, down in zip(means[::2], means[1::2], strict=True)]
        terms = tuple(zip(keys, slopes, strict=True))
        tried = yield [Point(_times(terms, -sign * step.lr)) for sign in (1.0, -1.0)]
        losses = [_or_infinite(v.mean()) for v in (base, *tried)]
        sign = (0.0, 1.0, -1.0)[losses.index(min(losses))]
        return Estimate(_times(terms, sign), {"loss": base.mean(), "sign": sign})

    return estimate


def _times(terms: tuple[tuple[Key, float], ...], factor: float) -> tuple[tuple[Key, float], ...]:
    return tuple((key, factor * scalar) for key, scalar in terms)


def _or_infinite(value: float) -> float:
    return math.inf if math.isnan(value) else value
