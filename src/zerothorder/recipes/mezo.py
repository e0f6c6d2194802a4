"""MeZO: two-point ZO-SGD over all weights, directions rebuilt from keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from zerothorder.directions import Direction
from zerothorder.directions.laws import Dense
from zerothorder.errors import UsageError, nearest
from zerothorder.estimate import Estimator
from zerothorder.estimators.finite_difference import central
from zerothorder.ledger.entry import Rates
from zerothorder.updates import Transform, Update
from zerothorder.updates.schedules import rates_of
from zerothorder.updates.transforms import Adam, Momentum, WeightDecay

OPTIMIZERS = ("sgd", "momentum", "adam")


@dataclass(frozen=True)
class MeZO:
    """θ ← θ - lr·ρ z with ρ = (L(θ + εz) - L(θ - εz)) / 2ε, z ~ N(0, I) over all trainable weights.

    Paper: Malladi, Gao, Nichani, Damian, Lee, Chen, Arora, "Fine-Tuning Language Models with Just Forward Passes",
    NeurIPS 2023, arXiv 2305.17333. Its settings: constant lr without warm-up or clipping, one draw, batch 16,
    20,000 steps. Full tuning lr 1e-7 to 1e-6 at ε 1e-3; LoRA lr 5e-5 to 1e-4 at ε 1e-2; prefix lr 1e-3 to 1e-2 at
    ε 1e-1: ε differs a hundredfold between the schemes, so the defaults (`SCHEME_DEFAULTS`) do too.

    With `draws` n the estimate is the mean of n (the paper raises lr in proportion). `optimizer` "momentum" and
    "adam" are MeZO-momentum and MeZO-Adam with stored moments (one and two floats a weight), rebuilt from the
    ledger in replay. Weight decay leaves out biases and norms. `law` "rademacher" draws signs instead of normals:
    same mean and covariance, smallest fourth moment.

    When not to use it: where a backward pass fits in memory, first-order training needs far fewer passes.
    """

    name: ClassVar[str] = "mezo"
    paper: ClassVar[str] = "Malladi et al., Fine-Tuning Language Models with Just Forward Passes, arXiv 2305.17333"
    columns: ClassVar[tuple[str, ...]] = ("loss",)
    tags: ClassVar[tuple[str, ...]] = ("z",)

    lr: float = 1e-6
    eps: float = 1e-3
    draws: int = 1
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    beta1: float = 0.9
    beta2: float = 0.999
    adam_eps: float = 1e-8
    law: Literal["gaussian", "rademacher"] = "gaussian"

    def direction(self, run_key: bytes) -> Direction:
        return Dense(run_key, self.law)

    def estimator(self) -> Estimator:
        return central(self.eps, self.draws)

    def update(self) -> Update:
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(f"unknown optimizer {self.optimizer!r}{nearest(self.optimizer, OPTIMIZERS)}")
        moments: dict[str, tuple[Transform, ...]] = {
            "sgd": (),
            "momentum": (Momentum(self.beta1),),
            "adam": (Adam(self.beta1, self.beta2, self.adam_eps),),
        }
        return Update((WeightDecay(), *moments[self.optimizer]))

    def rates(self, step: int, steps: int) -> Mapping[str, Rates]:
        return rates_of(self, step, steps)


SCHEME_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    # arXiv 2305.17333, tables 15 and 16: OPT, the middle of each grid
    "full": {"lr": 1e-6, "eps": 1e-3},
    "lora": {"lr": 1e-4, "eps": 1e-2},
    "prefix": {"lr": 1e-2, "eps": 1e-1},
    # not the paper's: those of `zo-sgd`
    "prompt": {"lr": 1e-4, "eps": 1e-3},
    "head": {"lr": 1e-4, "eps": 1e-3},
}
