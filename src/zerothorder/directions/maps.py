"""Linear maps of a draw, elementwise: each reads a named tensor of the State."""

from dataclasses import dataclass

from torch import Tensor

from zerothorder.directions import View
from zerothorder.key import Key
from zerothorder.space import Site
from zerothorder.state import State


@dataclass(frozen=True)
class Multiply:
    """z ← factor ∘ z with `factor` a State tensor of each site: a 0/1 mask, a scale, an inverse curvature."""

    factor: str

    def __call__(self, z: Tensor, site: Site, key: Key, start: int, state: State, view: View) -> None:
        z.mul_(state.tensor(self.factor, site.name).reshape(-1)[start : start + z.numel()].to(z.dtype))
