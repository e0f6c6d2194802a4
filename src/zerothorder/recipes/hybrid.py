"""Hybrid: zeroth-order for the first blocks, first-order for the last."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from zerothorder.directions.blocks import BLOCK, Blocks, Level, blocks_of
from zerothorder.directions.laws import Dense
from zerothorder.errors import UsageError
from zerothorder.estimate import Estimator
from zerothorder.estimators.hybrid import hybrid
from zerothorder.recipes.zo_sgd import ZOSGD
from zerothorder.updates import Update
from zerothorder.updates.transforms import WeightDecay

if TYPE_CHECKING:
    from zerothorder.run import Run


@dataclass(frozen=True)
class Hybrid(ZOSGD):
    """θ ← θ - lr·(ρ z + λθ) on the first blocks, θ ← θ - lr·(s·∇L(θ) + λθ) on the `last` ones, by autograd.

    Paper: that of `zo-sgd`, which describes it (from memory) and whose code does not have it. The backward pass ends
    where the last blocks begin: activations of the earlier ones are never kept. `scale` s sets the rate of the last
    blocks apart from that of the first. 2n forwards and a gradient, which counts 3. `level` as for `block-wise`; the
    output head comes last, unless it is tied to the embedding, which comes first.

    The ledger holds a hash of the gradients: a run is repeated with its data, not replayed, and one that was killed
    goes on from its last snapshot; the steps after it are taken again.

    When not to use it: where run records should be small, or the objective has no derivative.
    """

    name: ClassVar[str] = "hybrid"

    last: int = 1
    scale: float = 1.0
    level: Level = "layer"

    def direction(self, run_key: bytes) -> Blocks:
        return Blocks(Dense(run_key, self.law))

    def estimator(self) -> Estimator:
        if self.last < 0:
            raise UsageError(f"last is {self.last}; it counts the blocks that get a gradient, 0 or more")
        if self.sides != "two":
            raise UsageError("hybrid takes two sides; leave `sides` out")
        return hybrid(self.eps, self.draws, self.scale)

    def update(self) -> Update:
        return Update((WeightDecay(),), accepts_dense=True)

    def setup(self, run: "Run") -> None:
        """Attach which site is of the first blocks (0) and which of the last (1)."""
        names = [site.name for site in run.space]
        numbers = blocks_of(names, self.level)
        first = max(numbers) + 1 - self.last
        run.attach(BLOCK, {n: torch.tensor([float(own >= first), 2.0]) for n, own in zip(names, numbers, strict=True)})
