"""Block-wise ZO-SGD: a slope of its own for every block of the weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from zerothorder.directions.blocks import BLOCK, Blocks, Level, block_vectors
from zerothorder.directions.laws import Dense
from zerothorder.errors import UsageError
from zerothorder.estimate import Estimator
from zerothorder.estimators.blockwise import Order, blockwise
from zerothorder.recipes.zo_sgd import ZOSGD

if TYPE_CHECKING:
    from zerothorder.run import Run


@dataclass(frozen=True)
class BlockWise(ZOSGD):
    """θ_b ← θ_b - lr·(ρ_b z_b + λθ_b) with ρ_b from two points along z_b, which moves block b alone. 2B forwards.

    Paper: that of `zo-sgd`, whose coordinate mode is `order` "gauss-seidel" (a block is estimated where the blocks
    before it have moved to) and whose joint mode is "jacobi". `level`: a layer, its attention apart from the rest, or
    every module by itself. Its code draws equal-shaped blocks from one seed; here each has its own. Blocks stand in an
    attachment of the ledger, and weights of other blocks are not touched while a block is looked at.

    When not to use it: the variance is that of B draws over all weights at the same number of forwards, no less; it is
    for models of which only a block fits in fast memory.
    """

    name: ClassVar[str] = "block-wise"

    level: Level = "layer"
    order: Order = "gauss-seidel"

    def direction(self, run_key: bytes) -> Blocks:
        return Blocks(Dense(run_key, self.law))

    def estimator(self) -> Estimator:
        if self.draws != 1 or self.sides != "two":
            raise UsageError("block-wise takes one draw a block and two sides; leave `draws` and `sides` out")
        return blockwise(self.eps, self.order)

    def setup(self, run: "Run") -> None:
        """Attach which site is of which block."""
        run.attach(BLOCK, block_vectors([site.name for site in run.space], self.level))
