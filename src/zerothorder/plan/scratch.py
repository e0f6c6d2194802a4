"""What an executor holds beside the weights: perturbed weights, or the factors of perturbations."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn

from zerothorder.execution.carried import BLOCK, LEAST, carrier
from zerothorder.execution.swap import owned
from zerothorder.plan.config import PlanConfig
from zerothorder.point import Point
from zerothorder.recipe import Recipe
from zerothorder.space import ParameterSpace, Site


def scratch_of(
    model: nn.Module, space: ParameterSpace, recipe: Recipe, config: PlanConfig, points: Sequence[Point]
) -> int:
    """Bytes. `Copy`: all searched weights. `Swap`: those of the largest module. `Batched`: the factors of all sites,
    and of the neediest module its block of dense weights for the points of a draw, or its weights where it runs once
    a point."""
    if config.executor == "copy":
        return space.nbytes
    if config.executor == "swap":
        return largest_module(model, space)
    together = config.together(len(points))
    matrix: Any = getattr(recipe.direction(bytes(16)), "matrix", lambda site: None)
    keys = len({key for point in points[:together] for key, _ in point.terms})
    rank = getattr(recipe, "rank", 1)
    thin = [(sum(shape), site) for site in space if (shape := matrix(site)) is not None]
    factors = sum(n * rank * keys * (site.grid.compute.itemsize + site.parameter.element_size()) for n, site in thin)
    signs = max(1, together // max(keys, 1))
    tokens = config.rows * config.tokens

    def needs(module: nn.Module, sites: Sequence[Site]) -> int:
        if carrier(type(module)) is None:
            return sum(map(_bytes, sites))
        return sum(_made(module, site, signs, together, tokens) for site in sites if matrix(site) is None)

    return factors + max(needs(module, sites) for module, sites in owned(model, space, {})[0])


def largest_module(model: nn.Module, space: ParameterSpace) -> int:
    """Bytes of the largest module's searched weights."""
    return max(sum(map(_bytes, sites)) for _, sites in owned(model, space, {})[0])


def _made(module: nn.Module, site: Site, signs: int, together: int, tokens: int) -> int:
    """Bytes of dense weights that a layer makes at a time."""
    size = site.parameter.element_size()
    if site.parameter.ndim < 2:
        return together * _bytes(site)
    width = site.numel // site.shape[0]
    if isinstance(module, nn.Embedding):
        return together * min(site.shape[0], tokens) * width * size
    return min(signs * site.numel, max(BLOCK, LEAST * width * signs)) * size


def one_by_one(model: nn.Module, space: ParameterSpace) -> tuple[str, ...]:
    """A sentence on the modules that `Batched` runs once a point; none where there are none."""
    kinds = Counter(type(module).__name__ for module, _ in owned(model, space, {})[0] if carrier(type(module)) is None)
    if not kinds:
        return ()
    names = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))
    return (f"run once a point, not for all points at once: {names}",)


def _bytes(site: Site) -> int:
    return site.numel * site.parameter.element_size()
