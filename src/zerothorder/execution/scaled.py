"""Perturbations in proportion to the weights: what the checks before the first step move the sites by."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zerothorder.directions import Direction, View, factors
from zerothorder.key import Key
from zerothorder.space import Site
from zerothorder.state import State

RELATIVE = 0.1
"""Size of a perturbation: this share of a site's rms, so that every 16-bit weight moves."""
ABSOLUTE = 0.1
"""Size where a site is all zero: well above what 16-bit activations round away."""


def scales(sites: Iterable[Site]) -> dict[str, float]:
    """Site name → what its z is multiplied by."""
    return {site.name: _scale(site) for site in sites}


def _scale(site: Site) -> float:
    flat = site.read()
    squares = sum(float(flat[local].double().square().sum()) for local, _ in site.chunks())
    return RELATIVE * (squares / site.numel) ** 0.5 if squares else ABSOLUTE


@dataclass(frozen=True)
class Scaled:
    """A direction with z of each site multiplied by `scale` of its name."""

    direction: Direction
    scale: Mapping[str, float]

    @property
    def run_key(self) -> bytes:
        """As of the direction."""
        return self.direction.run_key

    def factors(
        self, sites: Iterable[Site], keys: Sequence[Key | str], dtype: torch.dtype
    ) -> dict[str, tuple[Tensor, Tensor, float]]:
        """See `directions.factors`."""
        found = factors(self.direction, sites, keys, dtype)
        return {name: (a, b, s * self.scale[name]) for name, (a, b, s) in found.items()}

    def shift(
        self, out: Tensor, source: Tensor, site: Site, term: Key | str, coefficient: float, start: int, state: State,
        view: View = "probe",
    ) -> None:  # fmt: skip
        """See `Direction.shift`."""
        self.direction.shift(out, source, site, term, coefficient * self.scale[site.name], start, state, view)
