"""How many elements of each tensor a mask leaves out."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch._subclasses import FakeTensor  # the tensors of a plan, which have no numbers

from zerothorder.space import Site

SAMPLE = 10_000_000
"""Weights whose magnitudes give the model's quantile."""


def uniform(space: Iterable[Site], sparsity: float) -> dict[str, Tensor]:
    """The same share everywhere."""
    return {site.name: torch.tensor([sparsity], dtype=torch.float64) for site in space}


def by_magnitude(space: Iterable[Site], sparsity: float) -> dict[str, Tensor]:
    """The share of each tensor that lies below the quantile of all magnitudes: evenly spaced weights, 10 million at
    most, make the quantile; the shares are of whole tensors. Of weights without data (a plan's) it is `sparsity`."""
    sites = list(space)
    if sparsity <= 0 or isinstance(sites[0].parameter, FakeTensor):
        return uniform(sites, sparsity)
    every = max(1, -(-sum(site.numel for site in sites) // SAMPLE))
    sample = torch.cat([site.read()[::every].abs().float() for site in sites])
    threshold = sample.kthvalue(max(1, min(sample.numel(), round(sparsity * sample.numel())))).values
    return {site.name: _below(site, threshold) for site in sites}


def _below(site: Site, threshold: Tensor) -> Tensor:
    flat = site.read()
    below = sum(int((flat[local].abs().float() < threshold).sum()) for local, _ in site.chunks())
    return torch.tensor([below / site.numel], dtype=torch.float64)
