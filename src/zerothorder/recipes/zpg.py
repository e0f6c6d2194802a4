"""ZPG and its kin: a policy's gradient from comparisons of its samples, by people or judges, with no reward model."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from zerothorder.directions import Direction
from zerothorder.directions.blocks import BLOCK, Blocks, Level, block_count, block_vectors
from zerothorder.directions.laws import Dense
from zerothorder.errors import UsageError, nearest
from zerothorder.estimate import Estimator, Step
from zerothorder.estimators.finite_difference import central
from zerothorder.estimators.signs import sign_of
from zerothorder.key import Key
from zerothorder.recipes.zo_sgd import ZOSGD

if TYPE_CHECKING:
    from zerothorder.run import Run

OVER = ("all", "block")
_NOBODY = bytes(16)


@dataclass(frozen=True)
class ZPG(ZOSGD):
    """θ ← θ + lr·ρ z, ρ = D/2ε, D what comparisons say of θ + εz beside θ - εz (`objectives.comparison.Comparison`).

    Paper: Zhang, Ying, "Zeroth-Order Policy Gradient for Reinforcement Learning from Human Feedback without Reward
    Inference", ICLR 2025, arXiv 2409.17401; from memory. There v is uniform on the unit sphere, the second point is θ
    itself (`sides` "one") and a step α·(d/μ)·D·v. Here z is √d·v in length, exactly for signs and nearly for a
    Gaussian, so ε = μ/√d and lr = α, without a factor d that is in the millions. Two sides halve the bias at the same
    number of judgements.

    `over` "block" is ZBCPG: each draw moves one block of the weights, chosen at random, by √B ε z for B blocks, so that
    the mean of the estimate is that over all. `level` as of `block-wise`. The steps are those of `zo-sgd`: what is new
    is the objective, and with any other one this recipe is that.

    When not to use it: where a judge gives a number, that number says more than which is larger.
    """

    name: ClassVar[str] = "zpg"
    paper: ClassVar[str] = (
        "Zhang, Ying, Zeroth-Order Policy Gradient for RLHF without Reward Inference, arXiv 2409.17401"
    )

    over: Literal["all", "block"] = "all"
    level: Level = "layer"

    def direction(self, run_key: bytes) -> Direction:
        return Blocks(Dense(run_key, self.law)) if self.over == "block" else Dense(run_key, self.law)

    def estimator(self) -> Estimator:
        if self.over not in OVER:
            raise UsageError(f"a draw is over all or a block, not over {self.over!r}{nearest(self.over, OVER)}")
        if self.over == "all":
            return super().estimator()
        if self.sides != "two":
            raise UsageError("a block is looked at from two sides; leave `sides` out")
        return central(self.eps, self.draws, one_block)

    def setup(self, run: "Run") -> None:
        """Attach which site is of which block."""
        if self.over == "block":
            run.attach(BLOCK, block_vectors([site.name for site in run.space], self.level))


def one_block(step: Step, draw: int) -> tuple[tuple[Key, float], ...]:
    """√B z of one of B blocks, each as likely as another: E[B z zᵀ] = I."""
    count = block_count(step.state)
    # the key holds the choice, so that replay does not ask for it again
    chosen = Key("block", step.index, draw).seed(_NOBODY, 0) % count
    return ((Key("z", step.index, chosen + count * draw), math.sqrt(count)),)


@dataclass(frozen=True)
class ZSPO(ZPG):
    """θ ← θ + lr·sign(D) z: a majority of judges says which way, and nobody needs to know their link.

    Paper: ZSPO, arXiv 2506.03066, by the card of `zpg`, from memory. There batches of trajectories are compared: a
    judge of whole batches gives one share a step, one of pairs its votes (`Comparison(link="votes")`). A tie moves
    nothing. Steps do not get shorter near a maximum: let lr fall.
    """

    name: ClassVar[str] = "zspo"
    paper: ClassVar[str] = "ZSPO, arXiv 2506.03066"

    def estimator(self) -> Estimator:
        return sign_of(super().estimator())
