"""SGD and AdamW by backpropagation: the ceiling a zeroth-order method is measured against."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from zerothorder.directions.laws import Dense
from zerothorder.estimate import Estimator
from zerothorder.estimators.first_order import gradient
from zerothorder.ledger.entry import Rates
from zerothorder.updates import Transform, Update
from zerothorder.updates.schedules import rates_of
from zerothorder.updates.transforms import Adam, Momentum, WeightDecay


@dataclass(frozen=True)
class FirstOrder:
    """What the baselines share: the gradient, rates as of the other recipes, nothing drawn."""

    columns: ClassVar[tuple[str, ...]] = ("loss", "gradient_norm")
    tags: ClassVar[tuple[str, ...]] = ()

    lr: float = 1e-2
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0

    def direction(self, run_key: bytes) -> Dense:
        return Dense(run_key)

    def estimator(self) -> Estimator:
        return gradient()

    def rates(self, step: int, steps: int) -> Mapping[str, Rates]:
        return rates_of(self, step, steps)


@dataclass(frozen=True)
class SGD(FirstOrder):
    """θ ← θ - lr·m, m ← β·m + ∇L(θ) + λθ, with the gradient from autograd; λ is 0 for biases and norms.

    A baseline: it keeps the activations of a backward pass, and its ledger holds a hash of every gradient instead of
    the gradient, so a run is repeated with its data and not replayed. Torch's `SGD` takes the same steps.

    When not to use it: to save memory. That is what the other recipes are for.
    """

    name: ClassVar[str] = "sgd"
    paper: ClassVar[str] = "Robbins, Monro, A Stochastic Approximation Method, Ann. Math. Statist. 22(3), 1951"

    momentum: float = 0.0

    def update(self) -> Update:
        moments: tuple[Transform, ...] = (Momentum(self.momentum),) if self.momentum else ()
        return Update((WeightDecay(), *moments), accepts_dense=True)


@dataclass(frozen=True)
class AdamW(FirstOrder):
    """θ ← θ - lr·(m̂ / (√v̂ + ε) + λθ), m and v the moving means of ∇L and ∇L², bias-corrected; ∇L from autograd.

    Paper: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv 1711.05101. A baseline, as
    `sgd` is: two floats a weight beside the gradient and the activations, and a ledger that is repeated, not replayed.
    Torch's `AdamW` takes the same steps.

    When not to use it: to save memory. That is what the other recipes are for.
    """

    name: ClassVar[str] = "adamw"
    paper: ClassVar[str] = "Loshchilov, Hutter, Decoupled Weight Decay Regularization, arXiv 1711.05101"

    lr: float = 5e-5
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    beta1: float = 0.9
    beta2: float = 0.999
    adam_eps: float = 1e-8

    def update(self) -> Update:
        # after Adam, not before it: the decay is no part of the moments
        return Update((Adam(self.beta1, self.beta2, self.adam_eps), WeightDecay()), accepts_dense=True)


SCHEME_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "full": {},
    "lora": {"lr": 2e-4},
    "prefix": {"lr": 1e-2},
    "prompt": {"lr": 1e-2},
    "head": {"lr": 1e-3},
}
"""Of AdamW, as adapters and heads are usually trained; SGD's rate is nobody's default."""
