"""ZO-SGD-Cons: a step forward, a step back, or none, whichever is lowest."""

from dataclasses import dataclass
from typing import ClassVar

from zerothorder.errors import UsageError
from zerothorder.estimate import Estimator
from zerothorder.estimators.conservative import conservative
from zerothorder.recipes.zo_sgd import ZOSGD


@dataclass(frozen=True)
class ZOSGDCons(ZOSGD):
    """θ ← the lowest of θ, θ - lr·g, θ + lr·g on the batch that gave g, the estimate of `zo-sgd`. 2n + 3 forwards.

    Paper: that of `zo-sgd`. A value that is not a number counts as infinite, ties stay where they are; weight decay
    comes after the choice. In the published sweeps AdamW took the steps, so the points that were compared are not these
    (after +g and -2g from a fresh state it stands at -0.63 of a step, not at the other side).

    When not to use it: at equal forwards it takes two steps where `zo-sgd` takes five, and what is lowest on a small
    batch is mostly the batch's own noise.
    """

    name: ClassVar[str] = "zo-sgd-cons"
    columns: ClassVar[tuple[str, ...]] = ("loss", "sign")

    def estimator(self) -> Estimator:
        if self.sides != "two":
            raise UsageError("zo-sgd-cons takes two sides; leave `sides` out")
        return conservative(self.eps, self.draws)
