"""Sparse-gradient ZO-SGD: directions with a random share of zeros."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from zerothorder.directions.laws import Dense
from zerothorder.directions.maps import SPARSITY, RandomMask
from zerothorder.errors import UsageError, nearest
from zerothorder.recipes.zo_sgd import SCHEME_DEFAULTS as PLAIN
from zerothorder.recipes.zo_sgd import ZOSGD
from zerothorder.sparsity import by_magnitude, uniform

if TYPE_CHECKING:
    from zerothorder.run import Run

RATIOS = ("layer", "global")


@dataclass(frozen=True)
class SparseGradient(ZOSGD):
    """`zo-sgd` with z ∘ m, m_i independent 0/1, zero with the probability of its tensor: `sparsity` on average.

    Paper: that of `zo-sgd`. `ratio` "layer": the same probability everywhere; "global": the share of the tensor's
    weights whose magnitude is below the model's quantile `sparsity` at the start (magnitudes set the probabilities,
    they choose no elements; for LoRA, half of which starts at zero, the default is "layer"). A mask stays for
    `resample` steps. Nothing is rescaled. Its code zeroes the share Φ(ratio) instead (0.54 asked 0.1), and forgets the
    mask in the update of several draws.

    When not to use it: with masks that have nothing to do with the loss, it is `zo-sgd` at a rate of 1 - sparsity.
    """

    name: ClassVar[str] = "sparse-gradient"

    sparsity: float = 0.5
    ratio: Literal["layer", "global"] = "global"
    resample: int = 1

    def direction(self, run_key: bytes) -> Dense:
        return Dense(run_key, self.law, (RandomMask(run_key, self.resample),))

    def setup(self, run: "Run") -> None:
        """Attach the share of zeros of each site."""
        if not 0 <= self.sparsity < 1:
            raise UsageError(f"sparsity is {self.sparsity:g}; it is the share of zeros, at least 0 and below 1")
        if self.ratio not in RATIOS:
            raise UsageError(f"unknown ratio {self.ratio!r}{nearest(self.ratio, RATIOS)}")
        shares = uniform if self.ratio == "layer" else by_magnitude
        run.attach(SPARSITY, shares(run.space, self.sparsity))


SCHEME_DEFAULTS: Mapping[str, Mapping[str, float | str]] = {
    **PLAIN,
    "lora": {**PLAIN["lora"], "ratio": "layer"},  # half of a fresh LoRA is zero, so that magnitudes set nothing
}
