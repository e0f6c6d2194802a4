"""How many elements of each tensor a mask leaves out."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch._subclasses import FakeTensor  # the tensors of a plan, which have no numbers

from zerothorder.errors import UsageError
from zerothorder.space import Site

SAMPLE = 10_000_000
"""Weights whose magnitudes give the model's quantile."""
_OFF = 0.05
"""How far the share of zeros may be from the one asked for, where weights are equal."""


def uniform(space: Iterable[Site], sparsity: float) -> dict[str, Tensor]:
    """The same share everywhere."""
    return {site.name: torch.tensor([sparsity], dtype=torch.float64) for site in space}


def by_magnitude(space: Iterable[Site], sparsity: float) -> dict[str, Tensor]:
    """The share of each tensor that lies below the quantile of all magnitudes: evenly spaced weights, 10 million at
    most, make the quantile; the shares are of whole tensors. Of weights without data (a plan's) it is `sparsity`.

    UsageError where so many magnitudes are equal that no quantile parts them: half of a fresh LoRA is zero."""
    sites = list(space)
    if sparsity <= 0 or isinstance(sites[0].parameter, FakeTensor):
        return uniform(sites, sparsity)
    every = max(1, -(-sum(site.numel for site in sites) // SAMPLE))
    sample = torch.cat([site.read()[::every].abs().float() for site in sites])
    threshold = sample.kthvalue(max(1, min(sample.numel(), round(sparsity * sample.numel())))).values
    shares = {site.name: _below(site, threshold) for site in sites}
    weights = sum(site.numel for site in sites)
    reached = sum(float(shares[site.name]) * site.numel for site in sites) / weights
    if abs(reached - sparsity) > max(_OFF, 2 / weights):
        raise UsageError(
            f"the magnitudes give a share of {reached:.2f} zeros, not {sparsity:g}: too many weights are "
            f"{float(threshold):.3g} exactly (a fresh LoRA has half of its at 0); give every tensor the same share "
            "with the setting ratio=layer"
        )
    return shares


def _below(site: Site, threshold: Tensor) -> Tensor:
    flat = site.read()
    below = sum(int((flat[local].abs().float() < threshold).sum()) for local, _ in site.chunks())
    return torch.tensor([below / site.numel], dtype=torch.float64)
