"""ZO-Adam: Adam over zeroth-order estimates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from zerothorder.recipes.zo_sgd import ZOSGD
from zerothorder.updates import Update
from zerothorder.updates.transforms import Adam, WeightDecay


@dataclass(frozen=True)
class ZOAdam(ZOSGD):
    """θ ← θ - lr·m̂ / (√v̂ + ε_A), m and v the moving means of g and g², g = ρ z + λθ: torch's Adam. Two floats a weight.

    Paper: that of `zo-sgd`, β 0.9 and 0.999, ε_A 1e-8. Moments are kept in float32 (float64 for float64 weights); the
    paper's code keeps them in the weights' dtype, where in float16 ε_A is 0. At the first step every element moves by
    lr; with Gaussian z and a constant slope v̂ tends to ρ² in every element, so that later `zo-adam` is mostly
    `zo-sgd-mmt` at a rate of lr/|ρ|.

    When not to use it: where two floats a weight are too much, which is what zeroth-order methods save.
    """

    name: ClassVar[str] = "zo-adam"

    beta1: float = 0.9
    beta2: float = 0.999
    adam_eps: float = 1e-8

    def update(self) -> Update:
        return Update((WeightDecay(), Adam(self.beta1, self.beta2, self.adam_eps)))


SCHEME_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    # the published grids: full 1e-8 to 1e-4, LoRA 1e-6 to 1e-4; those of the others were not read
    "full": {"lr": 1e-6, "eps": 1e-3},
    "lora": {"lr": 1e-4, "eps": 1e-2},
    "prefix": {"lr": 1e-3, "eps": 1e-1},
    "prompt": {"lr": 1e-4, "eps": 1e-3},
    "head": {"lr": 1e-4, "eps": 1e-3},
}
