"""Low-rank SPSA: two points along A Bᵀ a matrix, which activations can carry instead of the weights."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from zerothorder.directions.lowrank import LowRank
from zerothorder.recipes.mezo import MeZO


@dataclass(frozen=True)
class LowRankSPSA(MeZO):
    """θ ← θ - lr·ρ z with ρ = (L(θ + εz) - L(θ - εz)) / 2ε, z of a matrix A Bᵀ/√r with A (m, r), B (n, r) of ±1.

    Paper: Sarkar, Fellows, Duque et al., "Evolution Strategies at the Hyperscale" (EGGROLL), arXiv 2511.16652, which
    draws such z for a population; this is one pair of it (or `draws` pairs), as SPSA takes it: the scalar is ρ, not a
    score within the population, and A and B are signs, not Gaussian, unless `law` says so. Vectors and small matrices
    are dense.

    y = x (W + εz)ᵀ is x Wᵀ + (ε/√r) (x B) Aᵀ: all points share one reading of the weights. The price is in the second
    moment: with signs E‖⟨G,z⟩z‖² is at rank 1 that of dense signs, with Gaussian factors (m+2)(n+2)‖G‖².
    """

    name: ClassVar[str] = "low-rank"
    paper: ClassVar[str] = "Sarkar et al., Evolution Strategies at the Hyperscale, arXiv 2511.16652"

    law: Literal["gaussian", "rademacher"] = "rademacher"
    rank: int = 1

    def direction(self, run_key: bytes) -> LowRank:
        return LowRank(run_key, self.rank, self.law)
