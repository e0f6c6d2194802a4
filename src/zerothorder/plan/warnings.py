"""What a plan warns of: steps that rounding would lose, perturbations below the dtype's resolution."""

from collections.abc import Sequence

import torch

from zerothorder.execution.resolution import lost_share
from zerothorder.plan.config import PlanConfig
from zerothorder.plan.prepared import prepared
from zerothorder.plan.source import Source
from zerothorder.point import Point
from zerothorder.recipe import Recipe
from zerothorder.space import ParameterSpace

_SITES = 8
"""Stored tensors that the share of lost perturbations is estimated from."""


def warnings_of(
    config: PlanConfig, recipe: Recipe, space: ParameterSpace, source: Source, points: Sequence[Point]
) -> tuple[str, ...]:
    """Sentences, the weightiest first; none where nothing is wrong."""
    found: list[str] = []
    perturbed = next((point for point in points if point.terms), None)
    sample = _sampled(space, source)
    if perturbed is not None and sample is not None:
        lost = lost_share(sample, recipe.direction(bytes(16)), prepared(recipe, sample), perturbed.terms)
        if lost > 0.5:
            found.append(
                f"{lost:.0%} of the perturbations are below the resolution of {config.dtype}: `zo train` refuses more "
                "than half; raise --eps or use float32"
            )
        elif lost > 0.01:
            found.append(
                f"{lost:.1%} of the perturbations are below the resolution of {config.dtype} and change nothing"
            )
    low = any(not site.grid.exact for site in space)
    rate = max(r.lr for r in recipe.rates(0, config.steps).values())
    if low and config.precision == "nearest":
        bits = 8 if config.dtype == "bfloat16" else 11
        found.append(
            f"bare rounding to the nearest loses every step smaller than half the spacing of {config.dtype}: "
            f"at lr {rate:g} a weight of 0.05 moves only where the projected gradient is above "
            f"{0.05 * 2.0**-bits / rate:.3g} (at lr 1e-7 about 99 % of the steps of a bf16 weight are lost); "
            "--precision residual costs one byte a weight"
        )
    if low and config.precision == "stochastic":
        found.append(
            "bare stochastic rounding adds noise of 2.5 to 8 times the movement (measured in bf16); "
            "--precision residual costs one byte a weight"
        )
    return tuple(found)


def _sampled(space: ParameterSpace, source: Source) -> ParameterSpace | None:
    """A few searched tensors with the beginning of their stored values; None where no file is at hand."""
    chosen = sorted(space, key=lambda site: -site.numel)[: 4 * _SITES : 4]
    sites: list[object] = []
    for site in chosen:
        values = source.sample(site.name)
        if values is not None:
            weights = torch.nn.Parameter(values.to(site.parameter.dtype), requires_grad=False)
            sites.append(ParameterSpace.site(site.name, weights, site.grid.precision))
    return ParameterSpace(sites) if sites else None  # type: ignore[arg-type]
