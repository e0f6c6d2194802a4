"""Only the sign of a scalar: a step whose length does not depend on the slope."""

import math
from collections.abc import Generator
from dataclasses import replace

from zerothorder.estimate import Estimate, Estimator, Step
from zerothorder.point import Point, Values


def sign_of(inner: Estimator) -> Estimator:
    """The estimate of `inner` with each scalar replaced by its sign over their number: Σ_j sign(ρ_j) z_j / n."""

    def estimate(step: Step) -> Generator[list[Point], list[Values], Estimate]:
        found = yield from inner(step)
        terms = tuple((key, _sign(slope) / len(found.terms)) for key, slope in found.terms)
        return replace(found, terms=terms)

    return estimate


def _sign(slope: float) -> float:
    """-1, 0 or 1; what is not a number stays so, and skips the step."""
    return slope if math.isnan(slope) else float((slope > 0) - (slope < 0))
