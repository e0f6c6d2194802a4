"""SPSA: two points along random signs."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from zerothorder.recipes.mezo import MeZO


@dataclass(frozen=True)
class SPSA(MeZO):
    """θ ← θ - lr·ρ z with ρ = (L(θ + εz) - L(θ - εz)) / 2ε, each element of z ±1 with equal chance.

    Paper: Spall, "Multivariate Stochastic Approximation Using a Simultaneous Perturbation Gradient Approximation",
    IEEE Transactions on Automatic Control 37(3), 1992, which asks of z that the mean of 1/z² be finite: signs are its
    example, a Gaussian is excluded. There the estimate of element i is ρ / z_i, for signs the same as ρ z_i.

    The other settings are those of MeZO, whose Gaussian z differs in its fourth moment alone: of all laws with
    independent elements signs have the smallest, so E‖⟨G,z⟩z‖² is n‖G‖² for n weights, where a Gaussian has
    (n + 2)‖G‖². A sign takes one random bit, a Gaussian sixteen.
    """

    name: ClassVar[str] = "spsa"
    paper: ClassVar[str] = "Spall, Multivariate Stochastic Approximation …, IEEE TAC 37(3), 1992"

    law: Literal["gaussian", "rademacher"] = "rademacher"
