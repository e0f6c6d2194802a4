"""Two points for the first blocks, a gradient for the last: no activation of the first blocks is kept."""

from collections.abc import Generator

from zerothorder.directions.blocks import block_count, sites_of
from zerothorder.estimate import Estimate, Estimator, Step
from zerothorder.estimators.finite_difference import check_eps, plus_minus
from zerothorder.point import Point, Values


def hybrid(eps: float, draws: int = 1, scale: float = 1.0) -> Estimator:
    """Of two blocks: Σ_j ρ_j z_j / n from two points a draw on block 0, scale·∇L(θ) by autograd on block 1.

    2n evaluations and a gradient, which counts 3; the graph for it begins at block 1. Without sites in block 1 this is
    `central`, without any in block 0 `gradient`. The entry holds the gradient's hash: such a run is repeated with its
    data, not replayed.
    """
    check_eps(eps)

    def estimate(step: Step) -> Generator[list[Point], list[Values], Estimate]:
        count, late = block_count(step.state), sites_of(step.state, 1)
        # draws of block 0 only: a key's block is its number mod the count
        keys = [step.key(j * count) for j in range(draws)] if sites_of(step.state, 0) != late else []
        last = [Point(want="gradient", sites=late)] if late else []
        values = yield [*plus_minus(keys, eps), *last]
        means = [v.mean() for v in values]
        ups, downs = means[: 2 * len(keys) : 2], means[1 : 2 * len(keys) : 2]
        terms = tuple((k, (up - down) / (2 * eps) / draws) for k, up, down in zip(keys, ups, downs, strict=True))
        if not late:
            return Estimate(terms, {"loss": sum(means) / len(means)})
        parts = {name: part * scale for name, part in (values[-1].gradient or {}).items()}
        return Estimate(terms, {"loss": means[-1]}, dense=parts, kept=False)

    return estimate
