"""ZO-SGD-MMT: heavy-ball momentum over zeroth-order estimates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from zerothorder.recipes.zo_sgd import SCHEME_DEFAULTS as PLAIN
from zerothorder.recipes.zo_sgd import ZOSGD
from zerothorder.updates import Update
from zerothorder.updates.transforms import Momentum, WeightDecay


@dataclass(frozen=True)
class ZOSGDMMT(ZOSGD):
    """θ ← θ - lr·m, m ← β·m + ρ z + λθ: torch's SGD with momentum on the estimate of `zo-sgd`. One float a weight.

    Paper: that of `zo-sgd`, β = 0.9. In the long run a step is 1/(1-β) as long, ten times at 0.9: the defaults are a
    tenth of those of `zo-sgd`.

    When not to use it: where a float a weight is too much; an estimate's noise is independent from step to step, so
    that the mean over steps is one over draws, bought with memory in place of forwards.
    """

    name: ClassVar[str] = "zo-sgd-mmt"

    lr: float = 1e-7
    momentum: float = 0.9

    def update(self) -> Update:
        return Update((WeightDecay(), *((Momentum(self.momentum),) if self.momentum else ())))


SCHEME_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    name: {key: value / 10 if key == "lr" else value for key, value in own.items()} for name, own in PLAIN.items()
}
