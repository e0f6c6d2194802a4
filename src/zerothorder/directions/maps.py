"""Linear maps of a draw, elementwise: each reads a named tensor of the State."""

from dataclasses import dataclass

from torch import Tensor

from zerothorder import random
from zerothorder.directions import View
from zerothorder.errors import UsageError
from zerothorder.exact import ordered_dot
from zerothorder.key import Key
from zerothorder.space import Site
from zerothorder.state import State


@dataclass(frozen=True)
class Multiply:
    """z ← factor ∘ z with `factor` a State tensor of each site: a 0/1 mask, a scale, an inverse curvature."""

    factor: str

    def __call__(self, z: Tensor, site: Site, key: Key, start: int, state: State, view: View) -> None:
        z.mul_(state.tensor(self.factor, site.name).reshape(-1)[start : start + z.numel()].to(z.dtype))

    def share(self, site: Site, state: State) -> float:
        """Mean of factor²."""
        factor = state.tensor(self.factor, site.name)
        return ordered_dot(factor, factor) / factor.numel()


SPARSITY = "sparsity"
"""The State vector that holds the share of zeros of a site."""
_LANE = 1 << 16


@dataclass(frozen=True)
class RandomMask:
    """z ← m ∘ z with m_i = 0 with the probability that the State's `SPARSITY` has for the site (to 2⁻¹⁶), else 1.

    One mask for `every` steps in a row, the same for all draws of a step; drawn from 16 bits an element under the tag
    "mask" by the key's step. Nothing is rescaled: E[z zᵀ] = (1-p)·I before the next maps.
    """

    run_key: bytes
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UsageError(f"a mask stays for {self.every} steps; it is 1 or more")

    def __call__(self, z: Tensor, site: Site, key: Key, start: int, state: State, view: View) -> None:
        share = float(state.tensor(SPARSITY, site.name)[0])
        seed = Key("mask", key.a // self.every).seed(self.run_key, site.id)
        random.drop(z, seed, round(share * _LANE), start)

    def share(self, site: Site, state: State) -> float:
        """1 - p."""
        return 1 - float(state.tensor(SPARSITY, site.name)[0])
