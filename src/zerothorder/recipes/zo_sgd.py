"""ZO-SGD: the plain member of the benchmark's family, and what all of it share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from zerothorder.directions import Direction
from zerothorder.directions.laws import Dense
from zerothorder.errors import UsageError, nearest
from zerothorder.estimate import Estimator
from zerothorder.estimators.finite_difference import central, one_sided
from zerothorder.ledger.entry import Rates
from zerothorder.updates import Update
from zerothorder.updates.schedules import rates_of
from zerothorder.updates.transforms import WeightDecay

PAPER = "Zhang et al., Revisiting Zeroth-Order Optimization for LLM Fine-Tuning: A Benchmark, arXiv 2402.11592"
SIDES = ("two", "one")


@dataclass(frozen=True)
class ZOSGD:
    """θ ← θ - lr·(ρ z + λθ) with ρ = (L(θ + εz) - L(θ - εz)) / 2ε, or with `sides` "one" (L(θ + εz) - L(θ)) / ε.

    Paper: Zhang, Li, Hong, Li et al., "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A
    Benchmark", ICML 2024, arXiv 2402.11592. Its settings: 20,000 steps of 16 rows at a constant rate; for full tuning
    lr 1e-8 to 1e-4 and ε 1e-5 to 1e-3 were searched. With two sides and a Gaussian z it is `mezo` without moments.

    `draws` n averages n estimates: 2n forwards with two sides, n + 1 with one. Weight decay leaves out biases and
    norms.

    When not to use it: where a backward pass fits in memory, first-order training needs far fewer passes.
    """

    name: ClassVar[str] = "zo-sgd"
    paper: ClassVar[str] = PAPER
    columns: ClassVar[tuple[str, ...]] = ("loss",)
    tags: ClassVar[tuple[str, ...]] = ("z",)

    lr: float = 1e-6
    eps: float = 1e-3
    draws: int = 1
    sides: Literal["two", "one"] = "two"
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    law: Literal["gaussian", "rademacher"] = "gaussian"

    def direction(self, run_key: bytes) -> Direction:
        return Dense(run_key, self.law)

    def estimator(self) -> Estimator:
        if self.sides not in SIDES:
            raise UsageError(f"unknown sides {self.sides!r}{nearest(self.sides, SIDES)}; there is two and one")
        return central(self.eps, self.draws) if self.sides == "two" else one_sided(self.eps, self.draws)

    def update(self) -> Update:
        return Update((WeightDecay(),))

    def rates(self, step: int, steps: int) -> Mapping[str, Rates]:
        return rates_of(self, step, steps)


SCHEME_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    # the middle of the grids that the benchmark's files search on OPT-1.3B
    "full": {"lr": 1e-6, "eps": 1e-3},
    "lora": {"lr": 1e-4, "eps": 1e-2},
    "prefix": {"lr": 1e-3, "eps": 1e-1},
    "prompt": {"lr": 1e-4, "eps": 1e-3},
    "head": {"lr": 1e-4, "eps": 1e-3},
}
