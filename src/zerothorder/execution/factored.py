"""Layers whose perturbation is carried by the activations: W + c·s·A Bᵀ is never formed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zerothorder.execution import Surroundings
from zerothorder.execution.probe import write_probe
from zerothorder.point import Point
from zerothorder.space import Site


def factored(
    kind: type, module: Any, x: Tensor, sites: list[Site], points: Sequence[Point], around: Surroundings, drawn: Any
) -> Tensor | None:
    """A layer's output for the rows of all points, or None where it is no such layer or z has no factors.

    Linear: x Wᵀ + c·s·(x B) Aᵀ; Embedding: W[i] + c·s·A[i] Bᵀ; the sum over a point's terms. Weights are used as
    stored: the residual byte of a 16-bit weight is below what its dtype shows. `drawn` keeps factors for the pass.
    """
    if kind not in (nn.Linear, nn.Embedding) or not hasattr(around.direction, "factors"):
        return None
    by_parameter = {id(site.parameter): site for site in sites}
    weight = by_parameter.pop(id(module.weight), None)
    bias = by_parameter.pop(id(module.bias), None) if kind is nn.Linear and module.bias is not None else None
    if weight is None or by_parameter:
        return None
    factors = [[(_factors(weight, key, x, module, around, drawn), c) for key, c in point.terms] for point in points]
    if any(found is None for terms in factors for found, _ in terms):
        return None
    if kind is nn.Embedding:
        out = nn.functional.embedding(x, module.weight)
        for rows, y, terms in zip(x.chunk(len(points)), out.chunk(len(points)), factors, strict=True):
            for (a, b, scale), c in terms:
                y += (a[rows] * (c * scale)) @ b
        return out
    out = nn.functional.linear(x, module.weight, None if bias is not None else module.bias)
    for part, y, terms, point in zip(x.chunk(len(points)), out.chunk(len(points)), factors, points, strict=True):
        flat, target = part.reshape(-1, part.shape[-1]), y.view(-1, y.shape[-1])
        for (a, b, scale), c in terms:
            target.addmm_((flat @ b.T).mul_(c * scale), a.T)
        if bias is not None:
            probe = torch.empty_like(bias.parameter)
            write_probe(probe, bias, point.terms, around.direction, around.state)
            target += probe
    return out


def _factors(site: Site, key: Any, x: Tensor, module: Any, around: Surroundings, drawn: dict[Any, Any]) -> Any:
    """Factors in the weights' dtype; drawn in float32 (or float64), where every law is exact."""
    if (site.name, key) not in drawn:
        direction: Any = around.direction
        found = direction.factors(site, key, site.grid.compute)
        dtype = module.weight.dtype
        drawn[site.name, key] = None if found is None else (found[0].to(dtype), found[1].to(dtype), found[2])
    return drawn[site.name, key]
