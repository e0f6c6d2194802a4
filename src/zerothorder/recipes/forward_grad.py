"""Forward-Grad: the exact slope along a random direction, by forward-mode differentiation."""

from dataclasses import dataclass
from typing import ClassVar

from zerothorder.estimate import Estimator
from zerothorder.estimators.forward_gradient import forward_gradient
from zerothorder.recipes.zo_sgd import ZOSGD


@dataclass(frozen=True)
class ForwardGrad(ZOSGD):
    """θ ← θ - lr·(ρ z + λθ) with ρ = ⟨∇L(θ), z⟩ by a Jacobian-vector product: no ε, no second point.

    Paper: that of `zo-sgd`; Baydin et al., "Gradients without Backpropagation", arXiv 2202.08587. A product counts as
    two forwards. It needs every operation of the model in forward mode: fused attention has none, and is replaced by
    plain products meanwhile; other kernels are refused by name. `eps` and `sides` have no meaning here.

    When not to use it: for objectives without a derivative (a metric, an API), and where activations are what fills
    the memory: theirs are kept twice, value and slope.
    """

    name: ClassVar[str] = "forward-grad"

    def estimator(self) -> Estimator:
        return forward_gradient(self.draws)
