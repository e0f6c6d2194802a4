"""The transforms of the common updates: decay, momentum, Adam, sign."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zerothorder.exact import sqrt_
from zerothorder.state import State
from zerothorder.updates import WeightDecay, Where

__all__ = ["Adam", "Momentum", "Sign", "WeightDecay"]


def _memory(name: str, where: Where, like: Tensor, state: State) -> Tensor:
    size = where.site.numel
    whole = state.tensor(name, where.site.name, lambda: torch.zeros(size, dtype=like.dtype, device=like.device))
    return whole[where.local]


@dataclass(frozen=True)
class Momentum:
    """m ← β·m + g; g ← m."""

    beta: float = 0.9
    memory: tuple[str, ...] = ("momentum",)

    def begin(self, state: State) -> None: ...

    def __call__(self, g: Tensor, weights: Tensor, where: Where, state: State) -> None:
        m = _memory("momentum", where, g, state)
        m *= self.beta
        m += g
        g.copy_(m)


@dataclass(frozen=True)
class Adam:
    """m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)g²; g ← m̂ / (√v̂ + ε), both moments bias-corrected.

    The powers of β are products kept in the State, one factor a step: `pow` differs between C libraries.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    memory: tuple[str, ...] = ("adam_m", "adam_v")

    def begin(self, state: State) -> None:
        for name, beta in (("adam_beta1", self.beta1), ("adam_beta2", self.beta2)):
            state.scalars[name] = state.scalars.get(name, 1.0) * beta

    def __call__(self, g: Tensor, weights: Tensor, where: Where, state: State) -> None:
        m, v = _memory("adam_m", where, g, state), _memory("adam_v", where, g, state)
        unbias = 1 - state.scalars["adam_beta1"], 1 - state.scalars["adam_beta2"]
        if g.device.type == "cpu":
            from zerothorder.updates import moments  # compiles for CPU, which a GPU does without

            moments.adam(g, m, v, self.beta1, self.beta2, *unbias, self.eps)
        else:
            self.elsewhere(g, m, v, *unbias)

    def elsewhere(self, g: Tensor, m: Tensor, v: Tensor, unbias1: float, unbias2: float) -> None:
        """The same by operations of torch, for every other device."""
        m *= self.beta1
        m += g * (1 - self.beta1)
        v *= self.beta2
        v += (g * g) * (1 - self.beta2)
        g.copy_(v)
        g /= g.new_tensor(unbias2)  # a GPU multiplies by the reciprocal of a number, and divides by a tensor
        sqrt_(g)
        g += self.eps
        torch.div(m / m.new_tensor(unbias1), g, out=g)


@dataclass(frozen=True)
class Sign:
    """g ← sign(g)."""

    memory: tuple[str, ...] = ()

    def begin(self, state: State) -> None: ...

    def __call__(self, g: Tensor, weights: Tensor, where: Where, state: State) -> None:
        g.sign_()
