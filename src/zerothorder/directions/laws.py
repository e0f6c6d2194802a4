"""Dense directions: every element of every site is an independent draw of a law, then linear maps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zerothorder import random
from zerothorder.directions import View
from zerothorder.errors import UsageError, nearest
from zerothorder.exact import ordered_dot
from zerothorder.key import Key
from zerothorder.space import Site
from zerothorder.state import State


class Map(Protocol):
    """A linear map of z that acts on a chunk alone: mask, scale, block."""

    def __call__(self, z: Tensor, site: Site, key: Key, start: int, state: State, view: View) -> None:
        """Change z (1-D, elements start … of the whole tensor) in place."""
        ...

    def share(self, site: Site, state: State) -> float:
        """By what the mean square of z is multiplied."""
        ...


@dataclass(frozen=True)
class Dense:
    """z_i independent with E[z] = 0, E[z zᵀ] = I before the maps; law "gaussian" or "rademacher"."""

    run_key: bytes
    law: str = "gaussian"
    maps: Sequence[Map] = ()

    def __post_init__(self) -> None:
        if self.law not in random.LAWS:
            raise UsageError(f"unknown law {self.law!r}{nearest(self.law, random.LAWS)}")

    def draw(self, site: Site, term: Key | str) -> tuple[str, int] | None:
        """(law, seed) where z of this site is that draw and nothing else, so that a pass may be fused; else None."""
        if isinstance(term, str) or self.maps or type(self).shift is not Dense.shift or self._own_z:
            return None
        return self.law, term.seed(self.run_key, site.id)

    def shift(
        self,
        out: Tensor,
        source: Tensor,
        site: Site,
        term: Key | str,
        coefficient: float,
        start: int,
        state: State,
        view: View = "probe",
    ) -> None:
        """See `Direction.shift`."""
        if isinstance(term, str) or self.maps or self._own_z:
            z = torch.empty_like(out)
            self.z(z, site, term, start, state, view)
            torch.add(source, z.mul_(coefficient), out=out)
        else:
            random.shift(out, source, self.law, term.seed(self.run_key, site.id), coefficient, start)

    def square(self, site: Site, term: Key | str, state: State) -> float:
        """See `Direction`."""
        if isinstance(term, str):
            vector = state.tensor(term, site.name)
            return ordered_dot(vector, vector)
        return site.numel * math.prod(change.share(site, state) for change in self.maps)

    @property
    def _own_z(self) -> bool:
        return type(self).z is not Dense.z

    def z(self, out: Tensor, site: Site, term: Key | str, start: int, state: State, view: View = "probe") -> None:
        """out = z[start : start+n] of the site."""
        if isinstance(term, str):
            out.copy_(state.tensor(term, site.name).reshape(-1)[start : start + out.numel()])
            return
        random.shift(out.zero_(), out, self.law, term.seed(self.run_key, site.id), 1.0, start)
        for change in self.maps:
            change(out, site, term, start, state, view)
